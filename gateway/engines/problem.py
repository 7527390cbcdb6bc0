"""Why can an engine not be used, and what is to be done? In words for the log, for readiness and for the greeting.

`kind` and `action` are the gateway's own words, which everyone may read. `details` may have names and words of the
engine in it, made harmless, and is for the log and for admins.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import aiohttp

from gateway.engines.credentials import ENGINE_KEY
from gateway.errors import ApiError
from gateway.supervision import record_fault
from models import endpoint

TRIED = f"GET /v1{endpoint.MODELS}"
KEY_SETTINGS = f"{ENGINE_KEY} or --engine-key-file"
WRONG_KEY = "HTTP 401"
OTHER_MODELS = "it lists other models"
NO_MODEL = "it does not have the model"
RUNNING = "Is the engine running, and is its URL right?"
NO_API = "Is an OpenAI-compatible API at this URL?"
RENAMED = "Start it with this name, or adopt the name that it has now."
_NO_MODEL = re.compile(
    r"\W*(the |requested |unknown |invalid |no such |unsupported )*model\b.{0,300}?"
    r"(not exist|not found|not available|not supported|not loaded|unknown|invalid|unrecognized|no such)|"
    r"\W*(unknown|invalid|no such|unsupported|unrecognized) model\b",
    re.IGNORECASE | re.DOTALL,
)
TLS = "If the engine does not speak TLS, use http://. If its certificate is not trusted, see --engine-ca."
BEHIND_PROXY = "A proxy answers, and the engine behind it does not: is it running?"
_BY_STATUS = {404: NO_API, 405: NO_API, 502: BEHIND_PROXY, 503: BEHIND_PROXY, 504: BEHIND_PROXY}


@dataclass(frozen=True)
class Problem:
    """Why an engine cannot be used."""

    kind: str
    """In a few fixed words, for everyone."""
    details: str = ""
    """For the log: may have an engine's words in it, made harmless."""
    action: str = ""
    """What to do, in fixed sentences, for everyone."""
    may_pass: bool = False
    """It may be over with the next probe, although nobody does anything."""

    def __str__(self) -> str:
        what = f"{self.kind}: {self.details}" if self.details else self.kind
        return f"{what}. {self.action}" if self.action else f"{what}."


REFUSED = Problem("connection refused", TRIED, RUNNING)


def of_error(error: Exception) -> Problem:
    """Why a probe failed that got no response. All of it may pass, but for a refused connection: nothing listens."""
    found = _of_error(error)
    return found if found == REFUSED else replace(found, may_pass=True)


def _of_error(error: Exception) -> Problem:
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        return _unconnected(error.os_error)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        cause = error.os_error if isinstance(error, aiohttp.ClientSSLError) else error
        return _tls(cause)
    if isinstance(error, TimeoutError):
        return Problem("timeout", TRIED, "Is the engine overloaded, or does a firewall drop what is sent to it?")
    if isinstance(error, aiohttp.ClientError | OSError | ValueError):
        action = f"{NO_API} If it speaks TLS, use https://."
        return Problem("no HTTP answer", f"{TRIED}: {type(error).__name__}", action)
    record_fault("probe", error)
    return Problem("its answer cannot be read", f"{TRIED}: {type(error).__name__}")


def of_status(status: int, location: str | None, key_source: str | None) -> Problem:
    """Why an engine is not used that responds with this status to a probe.

    Args:
        location: where a redirect leads to.
        key_source: where the key comes from that was sent; None if none was.
    """
    if status in (401, 403):
        return wrong_key(status, TRIED, key_source)
    if 300 <= status < 400 and location:
        where = f"{TRIED} redirects to {endpoint.shown([location])}"
        return Problem(f"HTTP {status}", where, "Give --engine the URL that it redirects to.")
    action = _BY_STATUS.get(status, "The engine's own log should say why.")
    return Problem(f"HTTP {status}", TRIED, action, may_pass=status >= 500)


def of_refusal(refusal: ApiError, model: str, key_source: str | None) -> Problem | None:
    """Why an engine that refused a request will refuse the next one, too; None if the request may be at fault.

    The caller cannot choose the model's name, but may be quoted in a message: that must begin with the model.
    """
    tried = f"POST /v1{endpoint.CHAT}"
    if refusal.status == 401:
        return wrong_key(401, tried, key_source)
    no_model = Problem(NO_MODEL, f"{tried}: HTTP {refusal.status} for {endpoint.shown([model])}", RENAMED)
    if refusal.status == 404:
        return no_model
    named = refusal.param == "model" or model in refusal.message[: len(model) + 100]
    return no_model if refusal.status == 400 and named and _NO_MODEL.match(refusal.message) else None


def wrong_key(status: int, tried: str, source: str | None) -> Problem:
    """An engine that refuses the key, or the lack of one."""
    if source is None:
        return Problem(f"HTTP {status}", f"{tried}: it wants a key, and none is set", f"Set it in {KEY_SETTINGS}.")
    if source.endswith((ENGINE_KEY, "--engine-header")):
        then = f"{source.removeprefix('in ')} is read at the start; a changed --engine-key-file is read at once."
    else:
        then = "Correct the file; it is read again at once."
    return Problem(f"HTTP {status}", f"{tried}: it refuses the key {source}", then)


def other_models(wanted: Mapping[str, Collection[str]], listed: Collection[str], *, served: bool) -> Problem:
    """An engine that lists none of the wanted models.

    Args:
        wanted: the checkpoints by the engine's name for them.
        served: whether another engine's names were adopted, instead of trained under the family's own.
    """
    details = f"{TRIED} lists {endpoint.shown(listed)}, none of {endpoint.shown(wanted)}"
    near = [(name, like) for name in sorted(wanted) if (like := endpoint.nearest(name, listed)) is not None]
    if near:
        name, like = near[0]
        details += f"; {endpoint.shown([like])} is most like {endpoint.shown([name])}"
    action = "Start it with --served-model-name and the wanted name"
    return Problem(
        OTHER_MODELS, details, f"{action}, or adopt its model by `laconic adopt`." if served else f"{action}."
    )


def lacking(url: str, models: Iterable[str], others: Collection[str], *, adapters: bool) -> str:
    """What an engine that is up lacks, in a sentence.

    Args:
        models: the models of the family that it does not list.
        others: what it lists besides the family's models.
        adapters: whether all that it lacks are adapters of a base that it has.
    """
    wanted = sorted(models)
    text = f"{url} does not list {endpoint.shown(wanted)}"
    if adapters:
        return f"{text}: add them to its --lora-modules, or let it load them with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
    if not others:
        return text
    near = endpoint.nearest(wanted[0], others)
    return f"{text}; it also lists {endpoint.shown(others)}" + (f"; is {endpoint.shown([near])} meant?" if near else "")


def _unconnected(cause: OSError) -> Problem:
    if cause.errno == errno.ECONNREFUSED:
        return REFUSED
    if isinstance(cause, socket.gaierror):
        return Problem("unknown host", f"{TRIED}: {cause.strerror or 'no address'}", "Check the host in its URL.")
    if isinstance(cause, ssl.SSLError):
        return _tls(cause)
    return Problem("cannot connect", f"{TRIED}: {cause.strerror or type(cause).__name__}", RUNNING)


def _tls(cause: object) -> Problem:
    if isinstance(cause, ssl.SSLCertVerificationError):
        action = "Name the certificates of its authority by --engine-ca, or correct the host in its URL."
        return Problem("TLS fails", f"{TRIED}: {cause.verify_message or 'its certificate is not trusted'}", action)
    reason = getattr(cause, "reason", None)
    return Problem("TLS fails", f"{TRIED}: {reason}" if isinstance(reason, str) else TRIED, TLS)
