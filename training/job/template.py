"""What does a chat template do with a question and with the thinking? Found out before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import TemplateError

from training.errors import StageError

if TYPE_CHECKING:  # plans look at templates without torch
    from transformers import PreTrainedTokenizerBase

THINK_END = "</think>"
"""The token that ends the thinking."""
QUESTION = "How much is 1 + 1?"
"""What a template is tried with."""


def opening(where: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template puts behind a question, up to where the model goes on: `<|im_start|>assistant` and the like.

    Raises:
        StageError: there is no template, it fails, it leaves the question out, or it closes the thinking by itself, as
            Qwen3's does with `enable_thinking` false. Then a model never thinks, and every rollout would be judged
            wrong. `where` begins the message.
    """
    if not tokenizer.chat_template:
        raise StageError(f"{where}: its tokenizer has no chat template, which prompts are made with")
    asked = [{"role": "user", "content": QUESTION}]
    try:
        before, whole = (
            str(tokenizer.apply_chat_template(asked, add_generation_prompt=prompted, tokenize=False))
            for prompted in (False, True)
        )
    except (TemplateError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise StageError(f"{where}: its chat template fails on one message of a user ({first})") from None
    return require_open(where, before, whole)


def require_open(where: str, before: str, whole: str) -> str:
    """What a template puts behind a question, of its rendering `before` the answer's beginning and with it (`whole`).

    Raises:
        StageError: as `opening`.
    """
    if QUESTION not in whole:
        raise StageError(f"{where}: its chat template leaves the user's question out of the prompt")
    # A template may mention the marks in its instructions, so only what follows the question's turn counts.
    behind = whole[len(before) :] if whole.startswith(before) else whole[whole.rindex(QUESTION) + len(QUESTION) :]
    if THINK_END in behind:
        raise StageError(
            f"{where}: its chat template closes the thinking by itself ({behind[-40:]!r}), so the model never thinks"
            " and every rollout would be judged wrong: use a template that leaves the thinking open, such as Qwen3's"
            " without enable_thinking false"
        )
    return behind


def no_end_mark(where: str) -> str:
    """The message about a tokenizer that cannot mark the end of thinking."""
    return (
        f"{where}: its tokenizer has no token {THINK_END}, which must mark the end of thinking:"
        " `laconic-train cold-start` teaches it, with base.cold_start: {} in the recipe"
    )
