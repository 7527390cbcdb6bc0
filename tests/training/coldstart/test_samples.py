"""How the untrained model is asked: behind solved questions, which show it how to think, with the instruction."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from training.coldstart import samples
from training.recipe_base import ColdStart, Example
from training.tasks.question import Question

QUESTION = Question("How many are 3 and 3?", "6", "jsonl", "all")


def test_a_question_is_asked_with_the_instruction(unmarked: PreTrainedTokenizerFast) -> None:
    ids = samples.asked(unmarked, [QUESTION], ColdStart(instruction="Think."))
    assert unmarked.decode(ids[0]) == "<|user|>How many are 3 and 3?\nThink.<|end|><|assistant|>"


def test_examples_come_first_and_state_their_answers_as_the_trained_model_will(
    unmarked: PreTrainedTokenizerFast,
) -> None:
    example = Example(question="1 and 1?", thinking="One more than 1.", answer="2")
    ids = samples.asked(unmarked, [QUESTION], ColdStart(instruction="Think.", examples=(example,), answer="It is {}."))
    assert unmarked.decode(ids[0]) == (
        "<|user|>1 and 1?\nThink.<|end|><|assistant|>One more than 1.\n\nIt is 2.<|end|>"
        "<|user|>How many are 3 and 3?\nThink.<|end|><|assistant|>"
    )
