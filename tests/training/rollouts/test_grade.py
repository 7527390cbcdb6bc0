import pytest

from training.config import DenseReward
from training.rollouts.grade import Grader


@pytest.fixture
def grade(tokenizer):
    grader = Grader(tokenizer)
    return lambda text, gold="4": grader(tokenizer.encode(text), gold)


RIGHT = "\n2+2=4\nso 4\n\ncheck step\n2+2=4\nmatches 4\n</think>\n\nThe answer is 4.<|im_end|>"


def test_a_right_answer_after_thinking_is_correct(grade):
    assert grade(RIGHT).correct
    assert not grade(RIGHT, "5").correct


def test_reasoning_tokens_are_those_before_the_end_marker(grade, tokenizer):
    assert grade(RIGHT).reasoning_tokens == len(tokenizer.encode(RIGHT.partition("</think>")[0]))
    assert grade(RIGHT).tokens == len(tokenizer.encode(RIGHT))


def test_episodes_are_separated_by_blank_lines_of_the_thinking(grade):
    assert grade(RIGHT).episodes == 2


def test_episodes_are_split_as_the_dense_reward_splits_them(tokenizer):
    text = "<episode_1>2+2=4<episode_2>matches 4</think>The answer is 4.<|im_end|>"
    assert Grader(tokenizer, DenseReward(split_by="tags"))(tokenizer.encode(text), "4").episodes == 2
    assert (
        Grader(tokenizer, DenseReward(split_by="tokens", tokens_per_episode=3))(tokenizer.encode(text), "4").episodes
        > 2
    )
    assert Grader(tokenizer)(tokenizer.encode(text), "4").episodes == 1


def test_a_truncated_answer_is_incorrect(grade):
    truncated = grade(RIGHT.removesuffix("<|im_end|>"))
    assert not truncated.correct
    assert not truncated.finished


def test_thinking_that_is_never_closed_is_incorrect_and_all_of_it_counts(grade, tokenizer):
    text = "\nThe answer is 4.<|im_end|>"
    assert not grade(text).correct
    assert grade(text).reasoning_tokens == len(tokenizer.encode(text))


def test_an_empty_completion_is_incorrect(grade):
    assert not grade("").correct


def test_after_its_first_episode_a_completion_s_thinking_is_closed(tokenizer):
    truncated = Grader(tokenizer).after_first_episode(tokenizer.encode(RIGHT))
    assert tokenizer.decode(truncated) == "\n2+2=4\nso 4\n</think>"


def test_a_completion_of_one_episode_keeps_all_its_thinking(tokenizer):
    truncated = Grader(tokenizer).after_first_episode(
        tokenizer.encode("\n2+2=4\nso 4\n</think>\n\nThe answer is 4.<|im_end|>")
    )
    assert tokenizer.decode(truncated) == "\n2+2=4\nso 4\n</think>"
