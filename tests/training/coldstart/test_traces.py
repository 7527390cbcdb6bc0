"""What is learned: reasoning without the sentence that states its answer, of right completions of several lengths."""

from __future__ import annotations

import copy
import random
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from training.coldstart import marks, traces
from training.coldstart.traces import Trace
from training.recipe_base import ColdStart


def stage(keep: int, lengths: Literal["spread", "shortest"] = "spread") -> ColdStart:
    return ColdStart(keep=keep, lengths=lengths)


@pytest.mark.parametrize(
    ("completion", "thinking"),
    [
        ("2 + 3 = 5.\n\nThe final answer is \\boxed{5}.", "2 + 3 = 5."),
        ("She has 5 left. The answer is \\boxed{5}.", "She has 5 left."),
        ("First, 5.\n\nTherefore, the final answer is:\n\n\\[ \\boxed{5} \\]", "First, 5."),
        ("So she pays 2 * 3 = \\boxed{6}.", "So she pays 2 * 3 = 6."),
        ("Half of it.\nSo x = \\boxed{\\frac{1}{2}}", "Half of it.\nSo x = \\frac{1}{2}"),
        ("\\boxed{5}", "5"),
        ("No answer at all", "No answer at all"),
    ],
)
def test_thinking_ends_before_the_answer_is_stated(completion: str, thinking: str) -> None:
    assert traces.thinking_of(completion) == thinking


def test_right_completions_of_spread_lengths_are_kept() -> None:
    completions = [f"{'so ' * length}on.\nThe answer is {answer}." for length in (1, 2, 3, 9) for answer in (5, 6)]
    kept = traces.right_ones("q", completions, "5", stage(3))
    assert [trace.thinking.count("so") for trace in kept] == [1, 3, 9]
    assert {trace.answer for trace in kept} == {"The answer is \\boxed{5}."}
    assert [t.thinking.count("so") for t in traces.right_ones("q", completions, "6", stage(1))] == [1]
    assert traces.right_ones("q", completions, "7", stage(3)) == []


def test_the_shortest_right_completions_are_kept_where_they_are_asked_for() -> None:
    completions = [f"{'so ' * length}on.\nThe answer is {answer}." for length in (9, 3, 2, 1) for answer in (5, 6)]
    kept = traces.right_ones("q", completions, "5", stage(2, "shortest"))
    assert [trace.thinking.count("so") for trace in kept] == [1, 2]
    assert len(traces.right_ones("q", completions, "5", stage(9, "shortest"))) == 4


@given(st.text(), st.integers(1, 5))
def test_any_completion_can_be_read(text: str, keep: int) -> None:
    assert len(traces.right_ones("q", [text, text], "5", stage(keep))) <= 1


@given(st.lists(st.integers(0, 9)), st.integers())
def test_a_budget_leaves_the_first_tokens(thinking: list[int], seed: int) -> None:
    left = traces.cut_at_a_budget(thinking, random.Random(seed))
    assert thinking[: len(left)] == left


def test_a_trace_teaches_thinking_and_answer_but_not_the_prompt(unmarked: PreTrainedTokenizerFast) -> None:
    tokenizer = marked(unmarked)
    example = traces.encode(Trace("Why?", "Because.", "Yes."), tokenizer)
    learned = [token for token in example["labels"] if token != -100]
    text = tokenizer.decode(example["input_ids"])
    assert text == "<|user|>Why?<|end|><|assistant|><think>\nBecause.\n\n</think>\n\nYes.<|end|>"
    assert tokenizer.decode(learned) == "Because.\n\n</think>\n\nYes.<|end|>"


def test_thinking_that_a_budget_ended_is_not_learned(unmarked: PreTrainedTokenizerFast) -> None:
    tokenizer = marked(unmarked)
    example = traces.encode(Trace("Why?", "Bec", "Yes.", forced=True), tokenizer)
    assert tokenizer.decode([token for token in example["labels"] if token != -100]) == "\n\nYes.<|end|>"
    assert "<think>\nBec</think>\n\nYes." in tokenizer.decode(example["input_ids"])


def marked(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(tokenizer)
    marks.add_marks(tokenizer)
    return tokenizer
