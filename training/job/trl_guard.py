"""Does the installed TRL still have what our trainer reaches into? TRL promises none of it, so it is checked at start.

Without the check, a method that TRL renames would no longer be overridden: training would run and optimise TRL's own
reward instead of ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, NoReturn

from training.errors import StageError

TESTED = "1.16.0"
"""The release of TRL that pyproject.toml pins, and that the tests run with."""
METHODS = {
    "_generate_single_turn": ("prompt_ids",),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("inputs",),
    "_prepare_inputs": ("generation_batch",),
    "_get_per_token_logps_and_entropies": ("model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"),
}
"""Methods of `GRPOTrainer` that the trainer overrides or calls, and the parameters that it relies on, in order."""
ATTRIBUTES = (
    "_buffered_inputs",
    "_metrics",
    "_step",
    "num_generations",
    "ref_model",
    "temperature",
    "use_vllm",
    "vllm_importance_sampling_correction",
)
"""Attributes of a constructed `GRPOTrainer` that the trainer reads or writes."""


def require_methods(grpo_trainer: type) -> None:
    """Check `METHODS` on TRL's trainer class.

    Raises:
        StageError: a method is missing, or one of its parameters is; names TRL's version, the change and the remedy.
    """
    for name, expected in METHODS.items():
        method = getattr(grpo_trainer, name, None)
        if method is None:
            _refuse(f"GRPOTrainer has no method {name}")
        parameters = [p for p in inspect.signature(method).parameters if p != "self"]
        if tuple(p for p in parameters if p in expected) != expected:
            _refuse(f"GRPOTrainer.{name} takes ({', '.join(parameters)}) and not ({', '.join(expected)})")


def require_attributes(trainer: Any) -> None:
    """Check `ATTRIBUTES` on a constructed trainer, and that vLLM's temperature can be set where vLLM samples.

    Raises:
        StageError: an attribute is missing; names TRL's version, the change and the remedy.
    """
    for name in ATTRIBUTES:
        if not hasattr(trainer, name):
            _refuse(f"GRPOTrainer has no attribute {name}")
    if "train" not in trainer._metrics:  # noqa: SLF001
        _refuse("GRPOTrainer._metrics has no key 'train'")
    if trainer.use_vllm and not hasattr(getattr(trainer, "vllm_generation", None), "temperature"):
        _refuse("GRPOTrainer has no attribute vllm_generation.temperature")


def require_correction(trainer: Any, output: Mapping[str, Any]) -> None:
    """Check that a batch sampled by vLLM carries TRL's correction: a ratio of probabilities for each token.

    Raises:
        StageError: it does not; names TRL's version, the change and the remedy.
    """
    if trainer.use_vllm and "importance_sampling_ratio" not in output:
        _refuse("GRPOTrainer's batch has no importance_sampling_ratio")


def temperature_cell(model: Any) -> Any:
    """The closure cell that holds the temperature at which TRL scores a model's tokens.

    TRL binds the temperature into the forward method that it gives a model when the trainer is built.

    Raises:
        StageError: the forward has no such variable; names TRL's version, the change and the remedy.
    """
    forward = getattr(model, "_original_forward", model.forward)  # accelerate keeps the one it wraps under this name
    code = getattr(forward, "__code__", None)
    if code is None or "temperature" not in code.co_freevars:
        _refuse(
            "the forward of GRPOTrainer's model has no free variable 'temperature'",
            "or leave family.last_temperature out, so that the temperature stays constant",
        )
    return forward.__closure__[code.co_freevars.index("temperature")]


def _refuse(change: str, alternative: str = "") -> NoReturn:
    raise StageError(
        f"TRL {version('trl')}: {change}, which training/trainer.py relies on; install trl=={TESTED}"
        + (f", {alternative}" if alternative else "")
    )
