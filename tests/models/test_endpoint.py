"""How an engine is named, and what is sent to it, whatever is written in a URL, a key file or a header."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import endpoint
from models.endpoint import EndpointError


@pytest.mark.parametrize(
    ("text", "url", "api"),
    [
        ("http://gpu1:8000", "http://gpu1:8000", "http://gpu1:8000/v1"),
        ("http://GPU1:8000/v1/", "http://gpu1:8000", "http://gpu1:8000/v1"),
        ("HTTP://gpu1:80//v1", "http://gpu1", "http://gpu1/v1"),
        ("https://h:443/Prefix/v1", "https://h/Prefix", "https://h/Prefix/v1"),
        ("https://h/prefix/", "https://h/prefix", "https://h/prefix/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000", "http://[::1]:8000/v1"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]", "http://[2001:db8::1]/v1"),
        ("https://h/v1/chat/completions", "https://h", "https://h/v1"),
        ("https://h/v1/models", "https://h", "https://h/v1"),
        ("https://h/paas/v4/chat/completions", "https://h/paas/v4/chat/completions", "https://h/paas/v4"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai", "https://h/v1beta/openai/v1"),
    ],
)
def test_an_engine_has_one_name_however_its_url_is_written(text: str, url: str, api: str) -> None:
    assert endpoint.engine_url(text) == url
    assert endpoint.engine_url(url) == url
    assert endpoint.api(url) == api


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("gpu1:8000", "starts with http://"),
        ("ftp://gpu1", "starts with http://"),
        ("http://", "starts with http://"),
        ("http://[::1", "not a URL"),
        ("http://gpu1:x", "not a URL"),
        ("http://gpu1:0", "starts with http://"),
        ("http://me:secret@gpu1", "a user name"),
        ("ftp://me:secret@gpu1", "starts with http://"),
        ("http://gpu1/a b", "no spaces"),
        ("http://gpu1/\r\nx: y", "no spaces"),
        ("http://gpü1", "ASCII"),
        ("http://gpu1/v1?key=secret", "leave out"),
        ("http://gpu1/#a", "leave out"),
    ],
)
def test_what_is_no_url_of_an_engine_is_refused_without_its_password(text: str, named: str) -> None:
    with pytest.raises(EndpointError, match=named) as error:
        endpoint.engine_url(text)
    assert "\n" not in str(error.value)
    assert "me:secret" not in str(error.value)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_is_refused(text: str) -> None:
    for prefix in ("", "http://", "https://h/"):
        try:
            url = endpoint.engine_url(prefix + text)
        except EndpointError as error:
            url, said = None, str(error)
        else:
            said = ""
            assert endpoint.engine_url(url) == url
        assert url is None or url.isascii()
        assert "\n" not in said


def test_keys_are_found_by_any_way_to_write_the_url(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("https://GPU1:443/v1 sk-one\nhttp://h/p sk-two\nsk-rest\n")
    keys = endpoint.read_keys(file)
    for written, key in (("https://gpu1/", "sk-one"), ("http://h:80/p/v1", "sk-two"), ("http://x", "sk-rest")):
        assert endpoint.key_for(endpoint.engine_url(written), keys, "sk-environment") == key
    assert endpoint.key_for("http://x", {}, "sk-environment") == "sk-environment"


@pytest.mark.parametrize("text", ["http://gpu1:8000", "http://a sk\x7f", "sk-\x00", "ftp://a sk", "http://a sk b"])
def test_a_line_that_is_no_key_is_refused_by_its_number(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# keys\n{text}\n")
    with pytest.raises(EndpointError, match="line 2 is neither a key nor a URL and a key") as error:
        endpoint.read_keys(file)
    assert "sk" not in str(error.value)


def test_the_key_of_the_environment_is_stripped_and_checked() -> None:
    assert endpoint.default_key({"LACONIC_ENGINE_KEY": " sk-one\n"}) == "sk-one"
    assert endpoint.default_key({"LACONIC_ENGINE_KEY": ""}) is None
    assert endpoint.default_key({}) is None
    for wrong in ("sk\nx: y", "sk-ä", "two words"):
        with pytest.raises(EndpointError, match="LACONIC_ENGINE_KEY") as error:
            endpoint.default_key({"LACONIC_ENGINE_KEY": wrong})
        assert wrong not in str(error.value)


def test_headers_are_sent_as_written_and_the_key_wins() -> None:
    more = endpoint.headers(["API-Key: x: y", "Authorization: Basic abc"])
    assert more == {"API-Key": "x: y", "Authorization": "Basic abc"}
    assert endpoint.with_key(more, None) == more
    assert endpoint.with_key(more, "sk") == {"API-Key": "x: y", "authorization": "Bearer sk"}


@pytest.mark.parametrize(
    "line", ["secret", "a b: secret", "Host: secret", "content-length: 1", "x: secret\r\ny: z", "x:"]
)
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(line: str) -> None:
    with pytest.raises(EndpointError) as error:
        endpoint.headers([line])
    assert "secret" not in str(error.value)


@given(st.sets(st.text(max_size=500)))
def test_names_are_shown_on_one_short_line(names: set[str]) -> None:
    text = endpoint.shown(names)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 5 * 64 * 12


def test_of_a_long_path_both_ends_are_shown() -> None:
    assert endpoint.shown(["/models/" + "x" * 80 + "/qwen3.gguf"]).endswith("xxx/qwen3.gguf'")


@pytest.mark.parametrize(
    ("wanted", "listed", "like"),
    [
        ("Qwen/Qwen3-8B", ["llama", "qwen3-8b"], "qwen3-8b"),
        ("qwen3-8b", ["/models/Qwen3-8B.gguf"], "/models/Qwen3-8B.gguf"),
        ("Qwen/Qwen3-8B", ["Qwen/Qwen3-8B-FP8", "Qwen/Qwen2-1B"], "Qwen/Qwen3-8B-FP8"),
        ("Qwen/Qwen3-8B", ["gpt-oss-20b"], None),
        ("Qwen/Qwen3-8B", [], None),
    ],
)
def test_the_name_most_like_the_one_wanted_is_found(wanted: str, listed: list[str], like: str | None) -> None:
    assert endpoint.nearest(wanted, listed) == like
