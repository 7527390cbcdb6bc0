"""Which arguments does vLLM need to serve a family that was trained? They are read from its manifest.

`laconic serve` starts its own engine with them; `laconic engine-args` prints them, or writes them to a file for
`vllm serve --config FILE`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from gateway.config import ConfigError
from models.family import MAX_JSON_BYTES, Checkpoint, Family
from models.field import one_line
from models.files import read_json

Options = Mapping[str, str | int | bool | list[str]]
"""By the flag's name without dashes; true for a flag without a value."""

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for `--max-lora-rank`."""


def engine_options(family: Family, directory: Path, seen_at: Path | None = None) -> Options:
    """vLLM's options for the base with its LoRA adapters, each under the name that callers use.

    Args:
        directory: the family's directory here.
        seen_at: where the engine sees it; None for the same place.

    Raises:
        ConfigError: a checkpoint is neither the base nor a LoRA adapter, or a rank is too large for vLLM.
    """
    if family.base is None:
        raise ConfigError(
            f"engine: the family {family.name} is of models that are served elsewhere; pass the URL with --engine URL"
        )
    place = seen_at or directory
    base = family.checkpoint(family.base)
    adapters = [checkpoint for checkpoint in family.checkpoints if checkpoint.name != base.name]
    if full := [checkpoint.name for checkpoint in adapters if checkpoint.kind != "lora"]:
        raise ConfigError(
            f"family: {full[0]} is a full model, but one engine serves one base with its LoRA adapters;"
            " start an engine for each model and pass each with --engine URL"
        )
    options: dict[str, str | int | bool | list[str]] = {
        "model": str(base.place(place)),
        "served-model-name": family.engine_name(base.name),
        "max-model-len": family.context_tokens,
        "enable-prompt-tokens-details": True,  # how much of a prompt was cached goes into the ledger
    }
    if family.reasoning is not None:
        options["reasoning-parser"] = "qwen3"
    if adapters:
        rank = max(_rank(directory, checkpoint) for checkpoint in adapters)
        allowed = [size for size in LORA_RANKS if size >= rank]
        if not allowed:
            raise ConfigError(f"family: an adapter has rank {rank}, but vLLM supports at most {LORA_RANKS[-1]}")
        # One slot more than adapters. On a CPU, vLLM applies the last slot's adapter to base requests that are batched
        # with adapter requests (vLLM pull request 48421), so the last slot must stay empty.
        options |= {"enable-lora": True, "max-loras": len(adapters) + 1, "max-lora-rank": allowed[0]}
        options["lora-modules"] = [f"{family.engine_name(one.name)}={one.place(place)}" for one in adapters]
    return options


def flags(options: Options) -> list[str]:
    """The options as words of a command line."""
    words: list[str] = []
    for name, value in options.items():
        words.append(f"--{name}")
        if not isinstance(value, bool):
            words += value if isinstance(value, list) else [str(value)]
    return words


def config_file(options: Options) -> str:
    """The options as a file for vLLM's `--config`: JSON, which is YAML as well."""
    return f"{json.dumps(dict(options), indent=2)}\n"


def _rank(directory: Path, checkpoint: Checkpoint) -> int:
    file = checkpoint.place(directory) / "adapter_config.json"
    try:
        config = cast("dict[str, Any]", read_json(file, MAX_JSON_BYTES))
        return int(config["r"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(f"family: {file} does not state the adapter's rank ({one_line(repr(error))})") from None
