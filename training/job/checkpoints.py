"""Where are the models of a run, and how are they loaded? The base and its checkpoints, and their architecture."""

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
from training.config import Recipe, checkpoint_name
from training.errors import StageError
from training.job import planning, template
from training.job.resume import processes
from training.job.template import THINK_END
from training.recipe_base import Architecture, BaseStage, PretrainedBase

THINK_CLOSED = f"\n{THINK_END}\n\n"
"""What stands between the thinking and the answer."""


def names(recipe: Recipe) -> list[str]:
    """The names of the run's checkpoints, the base first."""
    return ["base", *(checkpoint_name(alpha) for alpha in recipe.family.alphas)]


def artefact(recipe: Recipe) -> str:
    """The name of a trained checkpoint's directory: `adapter` with LoRA, else `model`."""
    return "adapter" if recipe.family.tune == "lora" else "model"


def trained_path(recipe: Recipe, name: str) -> Path:
    """Where the run saves a trained checkpoint."""
    return recipe.run_dir / "family" / name / artefact(recipe)


def base_directory(recipe: Recipe) -> Path:
    """The directory of the run's base. A model on the Hugging Face Hub is downloaded first.

    Raises:
        StageError: the base has not been trained, or the model cannot be downloaded.
    """
    stage, directory = recipe.base, recipe.run_dir / "base" / "model"
    if isinstance(stage, PretrainedBase) and stage.cold_start is None:
        return source_directory(stage)
    if not directory.exists():
        command = "cold-start" if isinstance(stage, PretrainedBase) else "base"
        raise StageError(f"{directory} is missing: run `laconic-train {command}` first")
    return directory


def source_directory(base: PretrainedBase) -> Path:
    """The directory of a model that was trained elsewhere; it is downloaded if it is on the Hugging Face Hub.

    Raises:
        StageError: it cannot be downloaded.
    """
    directory = Path(base.model)
    if directory.is_dir():
        return directory
    try:
        return Path(snapshot_download(base.model, revision=base.revision))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise StageError(
            f"base.model: {base.model} is not a directory, and cannot be downloaded from the Hugging Face Hub:"
            f" {str(error).splitlines()[0]}"
        ) from None


def architecture(recipe: Recipe) -> Architecture:
    """The architecture of the base: from the recipe, or from the model's own config.

    Raises:
        StageError: neither has it.
    """
    stage = recipe.base
    if isinstance(stage, BaseStage):
        return planning.architecture(stage)
    if stage.architecture:
        return stage.architecture
    own = config(stage.model, stage.revision).get_text_config()
    sizes = {name: getattr(own, name, None) for name in Architecture.model_fields}
    if sizes["hidden_size"] and sizes["num_attention_heads"]:
        sizes["head_dim"] = sizes["head_dim"] or sizes["hidden_size"] // sizes["num_attention_heads"]
    try:
        return Architecture.model_validate(sizes)
    except ValidationError as error:
        first = error.errors()[0]
        raise StageError(
            f"base.model: the plan does not know this architecture: {path_of(first['loc'])} of {stage.model} is"
            f" {first['input']!r}; {first['msg']}"
        ) from None


def config(model: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """A model's own config, from a directory or the Hugging Face Hub.

    Raises:
        StageError: it cannot be loaded.
    """
    try:
        return AutoConfig.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise StageError(
            f"base.model: the config of {model} cannot be loaded ({str(error).splitlines()[0]});"
            " to plan without it, give its sizes in base.architecture"
        ) from None


def dtype(recipe: Recipe) -> str:
    """The dtype of the base's weights in memory."""
    return recipe.base.dtype if isinstance(recipe.base, PretrainedBase) else "float32"


def load_base(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The run's base and its tokenizer.

    Raises:
        StageError: there is no base, or its tokenizer does not mark thinking.
    """
    directory = base_directory(recipe)
    model, tokenizer = load_model(directory, dtype(recipe)), load_tokenizer(directory)
    require_markers(directory, tokenizer)
    return model, tokenizer


def load(recipe: Recipe, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """One checkpoint of the run, ready to sample from, and its tokenizer. An adapter is merged into the base.

    Raises:
        StageError: the checkpoint has not been trained.
    """
    return load_base(recipe) if name == "base" else load_trained(recipe, trained_path(recipe, name))


def load_trained(recipe: Recipe, path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What the run has trained and saved at `path`, ready to sample from. An adapter is merged into the base."""
    if recipe.family.tune == "full":
        return load_model(path, dtype(recipe)), load_tokenizer(path)
    model, tokenizer = load_base(recipe)
    return _with_adapter(model, path), tokenizer


def load_to_train(recipe: Recipe, start: Path | None) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """What the run has trained and saved at `start`, ready to go on training; None: the base, without an adapter."""
    if start is None:
        return load_base(recipe)
    if recipe.family.tune == "full":
        return load_model(start, dtype(recipe)), load_tokenizer(start)
    model, tokenizer = load_base(recipe)
    return PeftModel.from_pretrained(model, str(start), is_trainable=True), tokenizer


def load_published(
    directory: Path, checkpoint: manifest.Checkpoint, base_path: Path, dtype: str = "float32"
) -> PreTrainedModel:
    """A published checkpoint, ready to sample from. An adapter is merged into the base."""
    if checkpoint.kind == "lora":
        return _with_adapter(load_model(base_path, dtype), directory / checkpoint.path)
    return load_model(directory / checkpoint.path, dtype)


def require_markers(directory: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise unless a tokenizer has a token that ends thinking, one that ends the answer, and a template that fits.

    Raises:
        StageError: one of them is missing, or the chat template does not leave the thinking to the model. Names it.
    """
    if THINK_END not in tokenizer.get_vocab():
        raise StageError(template.no_end_mark(str(directory)))
    if tokenizer.eos_token_id is None:
        raise StageError(f"{directory}: its tokenizer has no eos_token, which must mark the end of an answer")
    template.opening(str(directory), tokenizer)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `directory`; raises StageError if there is none."""
    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise StageError(f"{directory}: the tokenizer cannot be loaded ({str(error).splitlines()[0]})") from None


def load_model(directory: Path, dtype: str = "float32") -> PreTrainedModel:
    """The model in `directory`, on this process's device; raises StageError if it cannot be loaded."""
    try:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    except (OSError, ValueError, SafetensorError) as error:
        raise StageError(f"{directory}: transformers cannot load the model ({str(error).splitlines()[0]})") from None
    return model.to(processes().device)


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
