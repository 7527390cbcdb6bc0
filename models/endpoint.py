"""How is an engine reached? Its URL, its keys and its headers, as `laconic serve` and `laconic adopt` both read them.

An engine is named by the URL that stands before `/v1`, with any prefix that a proxy wants:

    http://gpu1:8000      https://[2001:db8::1]:8443      https://proxy.example/qwen

`/v1` at the end may be given or not. An API that is not under `/v1` is named by its whole address for chat requests,
such as `https://api.example/api/paas/v4/chat/completions`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from models.files import MIB, read_bounded

ENGINE_KEY = "LACONIC_ENGINE_KEY"
"""The environment variable with the key of every engine that no file names."""
AUTHORIZATION = "authorization"
CHAT, MODELS = "/chat/completions", "/models"
SHOWN_NAMES, SHOWN_CHARACTERS = 5, 60
MAX_COMPARED = 1000
"""Comparing more names would hold up requests."""
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+:[ \t]*[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_TAKEN = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"})


class EndpointError(ValueError):
    """A URL, a key file or a header cannot be used. The message is one line without any key."""


def engine_url(text: str) -> str:
    """The URL that names an engine: without `/v1`, with the scheme and the host in lower case and no default port.

    Raises:
        EndpointError: it is no URL of an engine. The message does not repeat a user name or password.
    """
    try:
        parts = urlsplit(text)
        usable = parts.scheme in _DEFAULT_PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number, or a bracket is missing
        raise EndpointError("not a URL such as http://gpu1:8000 or http://[::1]:8000") from None
    if not usable:
        raise EndpointError(f"{_without_user(text)!r} is not a URL that starts with http:// or https://")
    if parts.username is not None:  # it would be logged, but not sent
        raise EndpointError(
            f"a user name in the URL of an engine is not supported; put its key into {ENGINE_KEY} or a key file"
        )
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise EndpointError(f"{text[:200]!r}: a URL has ASCII characters only, and no spaces")
    if parts.query or parts.fragment:
        raise EndpointError(f"{text[:200]!r}: leave out what follows the path, from ? or # on")
    host = parts.netloc.lower().removesuffix(_DEFAULT_PORTS[parts.scheme])
    return f"{parts.scheme}://{host}{_prefix(parts.path)}"


def api(url: str) -> str:
    """Where the API of the engine called `url` is, which `CHAT` and `MODELS` are appended to."""
    return url.removesuffix(CHAT) if url.endswith(CHAT) else f"{url}/v1"


def read_keys(file: Path) -> dict[str, str]:
    """The keys in a file, by engine URL; that of the empty URL is every other engine's.

    A file has one key for all engines, or lines of an engine's URL and its key. Lines that begin with # are skipped.

    Raises:
        EndpointError: the file cannot be read, or a line of it is neither a key nor a URL and a key.
    """
    try:
        text = read_bounded(file, MIB).decode()
    except OSError as error:
        raise EndpointError(f"cannot read {file} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise EndpointError(f"{file} is not text") from None
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            url, key = ("", words[0]) if len(words) == 1 else (engine_url(words[0]), words[1])
            if len(words) > 2 or (not url and "://" in key):
                raise EndpointError("")
            keys[url] = check_key(key)
        except EndpointError:
            raise EndpointError(f"{file}: line {number} is neither a key nor a URL and a key") from None
    if not keys:
        raise EndpointError(f"{file} has no key in it")
    return keys


def key_for(url: str, keys: Mapping[str, str], default: str | None) -> str | None:
    """The key of the engine called `url`; None if it has none."""
    return keys.get(url) or keys.get("") or default


def default_key(environment: Mapping[str, str]) -> str | None:
    """The key in `LACONIC_ENGINE_KEY`; None if there is none.

    Raises:
        EndpointError: it cannot be sent.
    """
    key = environment.get(ENGINE_KEY, "").strip()
    return check_key(key) if key else None


def check_key(key: str) -> str:
    """The key, if it can be sent in a header; otherwise raise EndpointError, without the key."""
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise EndpointError(f"{ENGINE_KEY}: a key has ASCII characters only, and no spaces")
    return key


def headers(lines: Sequence[str]) -> dict[str, str]:
    """Headers given as `NAME: VALUE`, by their names.

    Raises:
        EndpointError: one is no header, or is set by the client itself. The message does not repeat its value.
    """
    for line in lines:
        if not _HEADER.fullmatch(line):
            raise EndpointError("a header must be NAME: VALUE, in ASCII")
        if line.partition(":")[0].lower() in _TAKEN:
            raise EndpointError(f"{line.partition(':')[0]} is set by Laconic itself")
    split = (line.partition(":") for line in lines)
    return {name: value.strip() for name, _, value in split}


def with_key(more: Mapping[str, str], key: str | None) -> dict[str, str]:
    """The headers of a request: those of the operator, and the key, which wins over an `authorization` of theirs."""
    if key is None:
        return dict(more)
    return {name: value for name, value in more.items() if name.lower() != AUTHORIZATION} | {
        AUTHORIZATION: f"Bearer {key}"
    }


def shown(names: Iterable[str]) -> str:
    """Names from an engine, however many and whatever they are: the first few, in ASCII, without line ends."""
    every = sorted(set(names))
    if not every:
        return "nothing"
    text = ", ".join(_shown(name) for name in every[:SHOWN_NAMES])
    return text if len(every) <= SHOWN_NAMES else f"{text} and {len(every) - SHOWN_NAMES} more"


def nearest(wanted: str, names: Iterable[str]) -> str | None:
    """The name that is most like the one wanted, if one is; a path or a publisher before the name does not matter."""
    by_last: dict[str, str] = {}
    for name in sorted(set(names))[:MAX_COMPARED]:
        by_last.setdefault(_last(name), name)
    last = _last(wanted)
    longer = [name for name in by_last if last and name.startswith(last)]  # quantized, or another version
    close = longer or difflib.get_close_matches(last, by_last, n=1)
    return by_last[min(close, key=len)] if close else None


def _shown(name: str) -> str:
    """A name, of which both ends tell more than the middle: it may be a path."""
    half = SHOWN_CHARACTERS // 2
    return ascii(name if len(name) <= SHOWN_CHARACTERS else f"{name[:half]}...{name[-half:]}")


def _last(name: str) -> str:
    """What tells a model's name from others: the last part of a path, in lower case, without the ending of a file."""
    return name[-256:].rstrip("/").rsplit("/", 1)[-1].lower().removesuffix(".gguf")


def _prefix(path: str) -> str:
    """What stands before `/v1`, or the whole path if it ends in the address for chat requests and has no `/v1`."""
    path = path.rstrip("/")
    for end in (CHAT, MODELS, ""):
        if path.endswith(f"/v1{end}"):
            return path.removesuffix(f"/v1{end}").rstrip("/")
    return path


def _without_user(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)[:200]
