"""Do the files of an existing model have what training and serving need? Read without torch or transformers.

`laconic-train plan` ends here within seconds, where `run` would end. A model on the Hugging Face Hub is looked at by
`run`, once it is here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from training.config import Recipe
from training.errors import StageError
from training.job import planning
from training.job.template import QUESTION, THINK_END, no_end_mark, require_open
from training.recipe_base import Architecture, BaseStage, PretrainedBase

_PLAIN_TOKENIZERS = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of tokenizers that have no end-of-answer token of their own."""
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def check(directory: Path, base: PretrainedBase) -> None:
    """Raise unless a base's directory is complete and its tokenizer marks thinking, or can be taught to.

    Raises:
        StageError: a file is missing or malformed, a marker is missing, or the model has too few positions.
    """
    if not any(directory.glob("*token*")) and not any(directory.glob("vocab*")):
        raise StageError(f"{directory}: the tokenizer cannot be loaded (there is none)")
    for pattern in ("*.safetensors", "tokenizer.json"):
        if not any(directory.glob(pattern)):
            raise StageError(f"{directory}: {pattern} is missing, and the published family needs it")
    for weights in directory.glob("*.safetensors"):
        try:
            with safe_open(weights, "np"):
                pass
        except (OSError, SafetensorError) as error:
            raise StageError(f"{weights}: cannot be read as safetensors ({error})") from None
    _check_tokenizer(directory, base)
    positions = _text_config(directory).get("max_position_embeddings")
    if positions is not None and base.context_tokens > positions:
        raise StageError(
            f"base.context_tokens: {base.context_tokens} is more than the {positions} positions of {base.model}"
        )


def architecture(recipe: Recipe) -> Architecture | None:
    """The architecture of the base, from the recipe or from its directory.

    None if it is on the Hub or its config does not say all sizes; then `checkpoints.architecture` has the last word.
    """
    stage = recipe.base
    if isinstance(stage, BaseStage):
        return planning.architecture(stage)
    if stage.architecture or not Path(stage.model).is_dir():
        return stage.architecture
    own = _text_config(Path(stage.model))
    sizes = {name: own.get(name) for name in Architecture.model_fields}
    try:
        sizes["head_dim"] = sizes["head_dim"] or own["hidden_size"] // own["num_attention_heads"]
        return Architecture.model_validate(sizes)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def config(directory: Path) -> dict[str, Any]:
    """A model's `config.json`.

    Raises:
        StageError: it is missing or is not a JSON object.
    """
    return _json(directory / "config.json")


def _text_config(directory: Path) -> dict[str, Any]:
    """What a model's config says of its language model, which one that also sees has in a part of its own."""
    own = config(directory)
    text = own.get("text_config")
    return own | text if isinstance(text, dict) else own


def _check_tokenizer(directory: Path, base: PretrainedBase) -> None:
    settings = _json(directory / "tokenizer_config.json", optional=True)
    tokens = _json(directory / "special_tokens_map.json", optional=True) | settings
    if base.cold_start is None and THINK_END not in _added(settings):
        try:
            tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as error:  # noqa: BLE001 - that is what the library raises
            first = str(error).splitlines()[0]
            raise StageError(f"{directory}: the tokenizer cannot be loaded ({first})") from None
        if tokenizer.token_to_id(THINK_END) is None:
            raise StageError(no_end_mark(str(directory)))
    if not tokens.get("eos_token") and settings.get("tokenizer_class") in _PLAIN_TOKENIZERS:
        raise StageError(f"{directory}: its tokenizer has no eos_token, which must mark the end of an answer")
    template = _template(directory, settings)
    if not template:
        raise StageError(f"{directory}: its tokenizer has no chat template, which prompts are made with")
    if whole := _question(template, tokens, prompted=True):
        where = str(directory) if base.cold_start is None else "base.model"
        require_open(where, _question(template, tokens, prompted=False), whole)


def _added(settings: dict[str, Any]) -> set[str]:
    """Tokens that the settings add to those of the tokenizer's own file."""
    added = settings.get("added_tokens_decoder")
    rows = added.values() if isinstance(added, dict) else ()
    return {str(row.get("content")) for row in rows if isinstance(row, dict)}


def _template(directory: Path, settings: dict[str, Any]) -> str:
    """The chat template; empty without one."""
    if (file := directory / "chat_template.jinja").exists():
        return file.read_text()
    found = settings.get("chat_template") or ""
    if isinstance(found, list):
        named = {row.get("name"): row.get("template") for row in found if isinstance(row, dict)}
        found = named.get("default") or next(iter(named.values()), "")
    return str(found)


def _question(template: str, tokens: dict[str, Any], *, prompted: bool) -> str:
    """A question as the template puts it, as transformers renders it; empty if only transformers can."""
    values = {name: tokens.get(name) for name in _SPECIAL}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}

    def fail(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals |= {"raise_exception": fail, "strftime_now": lambda _: ""}
    try:
        compiled = environment.from_string(template)
        messages = [{"role": "user", "content": QUESTION}]
        return compiled.render(
            messages=messages, add_generation_prompt=prompted, **{k: v for k, v in texts.items() if v}
        )
    except (TemplateError, TypeError, ValueError):
        return ""


def _json(file: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not file.exists():
        return {}
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise StageError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise StageError(f"{file}: must be a JSON object")
    return content
