"""Which conversation does a request belong to? An id that the caller sends, else a fingerprint of its beginning; pure.

    x-conversation-id                              the conversation's own id
    a session's id (`SESSION_HEADERS`, metadata)   with the system prompt: one session of an agent has several
                                                   conversations, such as those of its subagents
    neither                                        system prompt and first user turn

The identity is a hash, keyed by the caller's key: no text is kept, and callers never share a conversation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

from gateway.errors import BadRequestError

HEADER = "x-conversation-id"
SESSION_HEADERS = (
    "x-session-id",  # OpenRouter
    "x-session-affinity",  # opencode, pi
    "session-id",  # Codex
    "session_id",  # Codex before, pi
    "x-claude-code-session-id",
    "x-litellm-session-id",  # LiteLLM, OpenHands
    "x-openwebui-chat-id",
)
"""Names under which clients send the id of a session, with who does."""
MAX_ID_CHARACTERS = 256
"""OpenRouter's limit."""
HASH_BYTES = 16

_CLAUDE_CODE_USER = re.compile(r"_session_([0-9A-Za-z-]{1,64})$")
"""How the first versions of Claude Code say it: `user_..._account_..._session_UUID`."""
_INSTRUCTIONS = frozenset({"system", "developer"})
_MANY_CHARACTERS = 65_536
"""No more of a text goes into a fingerprint: engines' caches differ long before."""


@dataclass(frozen=True)
class Conversation:
    """One conversation of one caller."""

    id: str
    """A hash, 32 hexadecimal digits."""
    may_be_known: bool
    """There may have been a turn before: the caller sent an id, or the messages have an assistant's turn."""
    is_named: bool = False
    """The caller sent an id."""


def identify(
    headers: Mapping[str, str], asked: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], caller: str
) -> Conversation:
    """The conversation of a request.

    Args:
        headers: with names in lower case, or indifferent to case.
        asked: the body in the API that the caller speaks.
        messages: of the chat request that asks the same.
        caller: what tells the caller's key from others.

    Raises:
        BadRequestError: the header `x-conversation-id` is empty, too long, or not printable ASCII.
    """
    own = headers.get(HEADER)
    if own is not None:
        if not _is_id(own):
            raise BadRequestError(
                f"{HEADER} must be 1 to {MAX_ID_CHARACTERS} printable ASCII characters without leading or trailing"
                f" blanks, got {len(own)}",
                HEADER,
            )
        return Conversation(_hash("id", caller, own), may_be_known=True, is_named=True)
    system = _fingerprint_of(messages, _INSTRUCTIONS)
    session = next((one for one in _sessions(headers, asked) if _is_id(one)), None)
    if session is not None:
        return Conversation(_hash("session", caller, session, system), may_be_known=True, is_named=True)
    opening = _fingerprint_of(messages, frozenset({"user"}))
    continues = any(message.get("role") == "assistant" for message in messages)
    return Conversation(_hash("opening", caller, system, opening), may_be_known=continues)


def _sessions(headers: Mapping[str, str], asked: Mapping[str, Any]) -> Iterator[object]:
    """What may be the id of a session, the most specific first."""
    yield from (headers.get(name) for name in SESSION_HEADERS)
    metadata = asked.get("metadata")
    if isinstance(metadata, dict):
        fields = cast("dict[str, Any]", metadata)
        yield fields.get("session_id")  # LiteLLM
        yield _claude_code_session(fields.get("user_id"))
    yield asked.get("prompt_cache_key")  # OpenAI


def _claude_code_session(user: object) -> object:
    """The session in Claude Code's `metadata.user_id`: a JSON object as text, or words joined by underscores."""
    if not isinstance(user, str) or len(user) > 4 * MAX_ID_CHARACTERS:
        return None
    if user.startswith("{"):
        try:
            fields: object = json.loads(user)
        except (ValueError, RecursionError):
            return None
        return cast("dict[str, Any]", fields).get("session_id") if isinstance(fields, dict) else None
    found = _CLAUDE_CODE_USER.search(user)
    return found and found[1]


def _is_id(value: object) -> TypeGuard[str]:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARACTERS:
        return False
    return value.isascii() and value.isprintable() and value == value.strip()


def _fingerprint_of(messages: Sequence[Mapping[str, Any]], roles: frozenset[str]) -> str:
    """The content of the first message that has one of these roles, as text; empty if there is none."""
    content = next((message.get("content") for message in messages if message.get("role") in roles), None)
    if isinstance(content, str):
        return content[:_MANY_CHARACTERS]
    return json.dumps(content, sort_keys=True)[:_MANY_CHARACTERS]


def _hash(*parts: str) -> str:
    """One hash of several texts. Each is preceded by its length, so that none can pass for two."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    return digest.hexdigest()
