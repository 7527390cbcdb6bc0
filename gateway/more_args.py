"""Which arguments may an operator add to those that the embedded vLLM gets anyway? Pure."""

from __future__ import annotations

import shlex

OURS = frozenset(
    {
        "api-key", "config", "enable-lora", "headless", "host", "lora-modules", "max-lora-rank", "max-loras", "model",
        "model-tag", "port", "root-path", "served-model-name", "ssl-ca-certs", "ssl-certfile", "ssl-keyfile", "uds",
    }
)  # fmt: skip
"""Flags by which the gateway finds its engine and its checkpoints, or that the family's manifest decides."""


def words(text: str) -> list[str]:
    """The arguments in a line, split as a shell does.

    Raises:
        ValueError: a quotation is not closed, the line does not begin with a flag, or one is the gateway's own.
    """
    try:
        split = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"cannot be split into words: {error}") from None
    if split and not split[0].startswith("--"):
        raise ValueError(f"{split[0]!r} is not a flag of vLLM such as --tool-call-parser")
    for word in split:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name[2:] in OURS:
            raise ValueError(
                f"{word.partition('=')[0]} is set by the gateway; start your own engine and pass --engine URL"
            )
    return split
