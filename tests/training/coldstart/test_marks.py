"""A tokenizer gets two marks, and a template that opens the thinking."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from tests.training.coldstart.conftest import marks_thinking
from training.coldstart import marks
from training.errors import StageError

QUESTION = [{"role": "user", "content": "Why?"}]


@pytest.fixture
def own(unmarked: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return copy.deepcopy(unmarked)


def rendered(tokenizer: PreTrainedTokenizerFast, **kwargs: bool) -> str:
    return tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True, **kwargs)


def test_the_template_opens_the_thinking_behind_its_own_prompt(own: PreTrainedTokenizerFast) -> None:
    before = rendered(own)
    assert not marks_thinking(own)
    ids = marks.add_marks(own)
    assert marks_thinking(own)
    assert rendered(own) == f"{before}<think>\n"
    assert rendered(own, enable_thinking=False) == f"{before}<think>\n\n</think>\n\n"
    assert own.apply_chat_template(QUESTION, tokenize=False) == "<|user|>Why?<|end|>"
    assert own.encode("<think>x</think>", add_special_tokens=False)[:: len(own.encode("x")) + 1] == ids


def test_marks_stay_in_decoded_text(own: PreTrainedTokenizerFast) -> None:
    marks.add_marks(own)
    text = "<think>\nso\n</think>\n\nyes"
    assert own.decode(own.encode(text), skip_special_tokens=True) == text


def test_a_tokenizer_with_marks_is_left_alone(own: PreTrainedTokenizerFast) -> None:
    first = marks.add_marks(own)
    template, size = own.chat_template, len(own)
    assert marks.add_marks(own) == first
    assert (own.chat_template, len(own)) == (template, size)


def test_a_tokenizer_without_a_template_is_refused(own: PreTrainedTokenizerFast) -> None:
    own.chat_template = None
    with pytest.raises(StageError, match="no chat template"):
        marks.add_marks(own)


def test_a_template_that_closes_the_thinking_by_itself_is_refused(own: PreTrainedTokenizerFast) -> None:
    own.chat_template = f"{own.chat_template}{{% if add_generation_prompt %}}<think></think>{{% endif %}}"
    with pytest.raises(StageError, match="closes the thinking"):
        marks.add_marks(own)


def test_the_opening_mark_begins_as_the_mean_and_the_closing_one_as_the_end_of_a_turn(
    own: PreTrainedTokenizerFast, model: Qwen3ForCausalLM
) -> None:
    ids = marks.add_marks(own)
    marks.make_room(model, own, ids)
    others = [token for token in range(len(own)) if token not in ids]
    for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
        torch.testing.assert_close(embeddings.weight[ids[0]], embeddings.weight[others].mean(0))
        torch.testing.assert_close(embeddings.weight[ids[1]], embeddings.weight[own.eos_token_id])
