"""Why an engine cannot be used, in words that name the cause and what to do."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from gateway.engines import problem
from gateway.engines.problem import Problem
from gateway.errors import ApiError

MODEL = "Qwen/Qwen3-8B"


def unconnected(cause: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(_key(), cause)


def _key() -> Any:
    return ConnectionKey("h", 1, False, True, None, None, None)


def certificate(message: str) -> aiohttp.ClientConnectorCertificateError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = message
    return aiohttp.ClientConnectorCertificateError(_key(), error)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (unconnected(OSError(errno.ECONNREFUSED, "x")), "connection refused", "Is the engine running"),
        (unconnected(OSError(errno.EHOSTUNREACH, "No route")), "cannot connect", "No route. Is the engine running"),
        (unconnected(socket.gaierror(-2, "Name not known")), "unknown host", "Name not known. Check the host"),
        (certificate("self-signed certificate"), "TLS fails", "self-signed certificate. Name the certificates"),
        (certificate("Hostname mismatch"), "TLS fails", "correct the host in its URL"),
        (aiohttp.ClientConnectorSSLError(_key(), ssl.SSLError(1, "[SSL] wrong")), "TLS fails", "use http://"),
        (aiohttp.ServerDisconnectedError(), "no HTTP answer", "If it speaks TLS, use https://"),
        (TimeoutError(), "timeout", "overloaded"),
    ],
)
def test_a_probe_that_gets_no_response_says_why(error: Exception, kind: str, words: str) -> None:
    found = problem.of_error(error)
    assert found.kind == kind
    assert words in str(found)


@pytest.mark.parametrize(
    ("found", "may_pass"),
    [
        (problem.of_error(unconnected(socket.gaierror(-3, "Temporary failure in name resolution"))), True),
        (problem.of_error(unconnected(OSError(errno.EMFILE, "Too many open files"))), True),
        (problem.of_error(TimeoutError()), True),
        (problem.of_status(503, None, None), True),
        (problem.of_error(unconnected(OSError(errno.ECONNREFUSED, "x"))), False),
        (problem.of_status(401, None, None), False),
        (problem.of_status(302, "/login", None), False),
        (problem.of_status(404, None, None), False),
    ],
)
def test_what_may_be_over_with_the_next_probe_is_told_from_what_is_not(found: Problem, may_pass: bool) -> None:
    assert found.may_pass is may_pass


def test_a_refused_key_is_told_from_a_key_that_is_not_set() -> None:
    assert "none is set. Set it in LACONIC_ENGINE_KEY or --engine-key-file." in str(problem.of_status(401, None, None))
    wrong = str(problem.of_status(403, None, "in LACONIC_ENGINE_KEY"))
    assert "refuses the key in LACONIC_ENGINE_KEY. LACONIC_ENGINE_KEY is read at the start" in wrong
    assert "Correct the file; it is read again at once." in str(problem.of_status(401, None, "in keys.txt"))


def test_a_redirect_says_where_to() -> None:
    found = problem.of_status(302, "https://login.example/\n", None)
    assert found.kind == "HTTP 302"
    assert "redirects to 'https://login.example/\\n'. Give --engine the URL" in str(found)


def test_other_models_name_the_one_that_is_most_alike() -> None:
    found = problem.other_models({MODEL: {"max"}}, {"Qwen/Qwen3-8B-AWQ", "x"}, served=True)
    assert "'Qwen/Qwen3-8B-AWQ' is most like 'Qwen/Qwen3-8B'" in found.details
    assert "--served-model-name" in found.action
    assert "laconic adopt" in found.action
    assert "adopt" not in problem.other_models({MODEL: {"max"}}, {"x"}, served=False).action


def test_what_an_engine_lacks_says_how_it_gets_it() -> None:
    models = {"f/alpha-0.1", "f/alpha-0.4"}
    adapters = problem.lacking("http://a", models, {"f/base"}, adapters=True)
    assert "http://a does not list 'f/alpha-0.1', 'f/alpha-0.4': add them to its --lora-modules" in adapters
    other = problem.lacking("http://a", {"qwen3-32b"}, {"qwen3-4b", "qwen3-32b-awq"}, adapters=False)
    assert other.endswith("it also lists 'qwen3-32b-awq', 'qwen3-4b'; is 'qwen3-32b-awq' meant?")
    assert problem.lacking("http://a", {"x"}, set(), adapters=False) == "http://a does not list 'x'"


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (404, "The model `Qwen/Qwen3-8B` does not exist.", problem.NO_MODEL),
        (404, "Not Found", problem.NO_MODEL),
        (400, "model 'Qwen/Qwen3-8B' not found", problem.NO_MODEL),
        (400, "Unknown model: Qwen/Qwen3-8B", problem.NO_MODEL),
        (400, "The requested model Qwen/Qwen3-8B is not supported.", problem.NO_MODEL),
        (400, "Invalid model name passed in model=Qwen/Qwen3-8B", problem.NO_MODEL),
        (401, "Unauthorized", problem.WRONG_KEY),
        (403, "This prompt is not allowed", None),
        (400, "messages: 'model Qwen/Qwen3-8B not found' is too long", None),
        (400, "max_tokens is too large for model Qwen/Qwen3-8B", None),
        (400, "The model's maximum context length is 1024 tokens", None),
        (400, "model foo not found", None),
        (422, "model 'Qwen/Qwen3-8B' not found", None),
        (500, "model 'Qwen/Qwen3-8B' not found", None),
        (429, "busy", None),
    ],
)
def test_a_refusal_is_the_engine_s_fault_only_if_its_next_one_would_be_the_same(
    status: int, message: str, kind: str | None
) -> None:
    found = problem.of_refusal(ApiError(status, message), MODEL, None)
    assert (found.kind if found else None) == kind
