"""Where are a run's models, and how do they come into memory? The base, what is trained from it, their sizes."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from peft import PeftModel
from pydantic import ValidationError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from models import family as manifest
from models.field import path_of
from training.config import Architecture, BaseStage, PretrainedBase, Recipe, checkpoint_name
from training.errors import StageError
from training.job import planning
from training.job.resume import processes

THINK_END = "</think>"
"""The token that ends the thinking."""


def names(recipe: Recipe) -> list[str]:
    """Every checkpoint of the run, the base first."""
    return ["base", *(checkpoint_name(alpha) for alpha in recipe.family.alphas)]


def artefact(recipe: Recipe) -> str:
    """What the directory of a trained checkpoint is called: an adapter, or a whole model."""
    return "adapter" if recipe.family.tune == "lora" else "model"


def trained_path(recipe: Recipe, name: str) -> Path:
    """Where the run keeps what it trained."""
    return recipe.run_dir / "family" / name / artefact(recipe)


def base_directory(recipe: Recipe) -> Path:
    """Where the run's base is; a model of the hub is fetched first.

    Raises:
        StageError: the base stage has not been run, or there is no such model.
    """
    stage, directory = recipe.base, recipe.run_dir / "base" / "model"
    if isinstance(stage, PretrainedBase):
        directory = Path(stage.model)
        if not directory.is_dir():
            try:
                directory = Path(snapshot_download(stage.model, revision=stage.revision))
            except (HfHubHTTPError, HFValidationError, OSError) as error:
                raise StageError(
                    f"base.model: {stage.model} is no directory here, and the Hugging Face Hub does not give it:"
                    f" {str(error).splitlines()[0]}"
                ) from None
    elif not directory.exists():
        raise StageError(f"{directory} is missing; run the base stage first: laconic-train base")
    return directory


def architecture(recipe: Recipe) -> Architecture:
    """The base's sizes: from the recipe, or from the model's own config.

    Raises:
        StageError: neither says.
    """
    stage = recipe.base
    if isinstance(stage, BaseStage):
        return planning.architecture(stage)
    if stage.architecture:
        return stage.architecture
    found = config(stage.model, stage.revision)
    sizes = {name: getattr(found, name, None) for name in Architecture.model_fields}
    sizes["head_dim"] = sizes["head_dim"] or found.hidden_size // found.num_attention_heads
    try:
        return Architecture.model_validate(sizes)
    except ValidationError as error:
        first = error.errors()[0]
        raise StageError(
            f"base.model: {stage.model} cannot be reckoned with: its {path_of(first['loc'])} is {first['input']!r};"
            f" {first['msg']}"
        ) from None


def config(model: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """A model's own config, from a directory or the hub.

    Raises:
        StageError: there is none.
    """
    try:
        return AutoConfig.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise StageError(
            f"base.model: no config of {model} is at hand ({str(error).splitlines()[0]});"
            " for a plan give its sizes in base.architecture"
        ) from None


def dtype(recipe: Recipe) -> str:
    return recipe.base.dtype if isinstance(recipe.base, PretrainedBase) else "float32"


def load_base(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The run's base and its tokenizer.

    Raises:
        StageError: there is none, or its tokenizer does not mark thinking.
    """
    directory = base_directory(recipe)
    model, tokenizer = load_model(directory, dtype(recipe)), load_tokenizer(directory)
    require_markers(directory, tokenizer)
    return model, tokenizer


def load(recipe: Recipe, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """One of the run's checkpoints, ready to sample from, and its tokenizer; an adapter is merged into the base.

    Raises:
        StageError: it has not been trained.
    """
    if name == "base":
        return load_base(recipe)
    path = trained_path(recipe, name)
    if recipe.family.tune == "full":
        return load_model(path, dtype(recipe)), load_tokenizer(path)
    model, tokenizer = load_base(recipe)
    return _with_adapter(model, path), tokenizer


def load_published(
    directory: Path, checkpoint: manifest.Checkpoint, base_path: Path, dtype: str = "float32"
) -> PreTrainedModel:
    """A published checkpoint, ready to sample from; adapters are merged into the base."""
    if checkpoint.kind == "lora":
        return _with_adapter(load_model(base_path, dtype), directory / checkpoint.path)
    return load_model(directory / checkpoint.path, dtype)


def require_markers(directory: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """See that a tokenizer marks the end of thinking and of an answer, and knows how a question is put.

    Raises:
        StageError: it does not; says what is missing.
    """
    if THINK_END not in tokenizer.get_vocab():
        raise StageError(f"{directory}: its tokenizer has no token {THINK_END}, so where its thinking ends is unknown")
    if tokenizer.eos_token_id is None:
        raise StageError(f"{directory}: its tokenizer has no eos_token, so where an answer ends is unknown")
    if not tokenizer.chat_template:
        raise StageError(f"{directory}: its tokenizer has no chat template, so how a question is put is unknown")


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise StageError(f"{directory}: no tokenizer ({str(error).splitlines()[0]})") from None


def load_model(directory: Path, dtype: str = "float32") -> PreTrainedModel:
    try:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    except (OSError, ValueError, SafetensorError) as error:
        raise StageError(f"{directory}: no model that transformers can load ({str(error).splitlines()[0]})") from None
    return model.to(processes().device)  # pyright: ignore[reportArgumentType]


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()  # pyright: ignore[reportCallIssue, reportReturnType]
