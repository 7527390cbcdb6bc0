"""How does a model that does not mark its thinking get marks? Two tokens, and a chat template that opens the thinking.

    prompt <think> thinking </think> answer

The template opens the thinking, as most reasoning models' templates do, so that an engine counts a budget from there
and its reasoning parser finds the end.
"""

from __future__ import annotations

import torch
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.job import template
from training.job.checkpoints import THINK_END

THINK_START = "<think>"
_OPENING = (
    "{%- if add_generation_prompt %}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- else %}{{- '<think>\\n' }}{%- endif %}"
    "{%- endif %}"
)


def add_marks(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Give a tokenizer both marks, and its chat template the opening. Returns the ids of the marks.

    Marks are no special tokens, so they stay in decoded text, where a reasoning parser looks for them.

    Raises:
        StageError: there is no chat template, or it closes the thinking by itself.
    """
    before = template.opening("base.model", tokenizer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in (THINK_START, THINK_END)])
    if not before.rstrip().endswith(THINK_START):
        tokenizer.chat_template = f"{str(tokenizer.chat_template).rstrip()}\n{_OPENING}"
    return [tokenizer.convert_tokens_to_ids(mark) for mark in (THINK_START, THINK_END)]


def make_room(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, marks: list[int]) -> None:
    """Give a model embeddings of the marks, from which they are learned. In place.

    The opening mark's is the mean of all others. The closing mark's is that of the end of a turn: where the model would
    end, it is to close its thinking instead. From the mean, it is too unlikely there, and few steps do not change that.
    """
    table = model.get_input_embeddings().weight
    if len(tokenizer) > len(table):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    others = [token for token in range(len(tokenizer)) if token not in marks]
    for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = embeddings.weight
        with torch.no_grad():
            weight[marks] = weight[others].float().mean(0).to(weight.dtype)
            weight[marks[1]] = weight[tokenizer.eos_token_id]
