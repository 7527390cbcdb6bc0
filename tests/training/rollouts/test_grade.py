import pytest

from training.config import DenseReward
from training.rollouts.grade import Grader


@pytest.fixture
def judged(tokenizer):
    judge = Grader(tokenizer)
    return lambda text, gold="4": judge(tokenizer.encode(text), gold)


RIGHT = "\n2+2=4\nso 4\n\ncheck step\n2+2=4\nmatches 4\n</think>\n\nThe answer is 4.<|im_end|>"


def test_a_right_answer_after_thinking(judged):
    assert judged(RIGHT).correct
    assert not judged(RIGHT, "5").correct


def test_reasoning_tokens_are_those_before_the_end_marker(judged, tokenizer):
    assert judged(RIGHT).reasoning_tokens == len(tokenizer.encode(RIGHT.partition("</think>")[0]))
    assert judged(RIGHT).tokens == len(tokenizer.encode(RIGHT))


def test_episodes_are_separated_by_blank_lines_of_the_thinking(judged):
    assert judged(RIGHT).episodes == 2


def test_episodes_are_split_as_the_dense_reward_splits_them(tokenizer):
    text = "<episode_1>2+2=4<episode_2>matches 4</think>The answer is 4.<|im_end|>"
    assert Grader(tokenizer, DenseReward(split_by="tags"))(tokenizer.encode(text), "4").episodes == 2
    assert (
        Grader(tokenizer, DenseReward(split_by="tokens", tokens_per_episode=3))(tokenizer.encode(text), "4").episodes
        > 2
    )
    assert Grader(tokenizer)(tokenizer.encode(text), "4").episodes == 1


def test_an_answer_that_was_cut_off_is_incorrect(judged):
    cut = judged(RIGHT.removesuffix("<|im_end|>"))
    assert not cut.correct
    assert not cut.finished


def test_thinking_that_never_ends_is_incorrect_and_all_of_it_counts(judged, tokenizer):
    text = "\nThe answer is 4.<|im_end|>"
    assert not judged(text).correct
    assert judged(text).reasoning_tokens == len(tokenizer.encode(text))


def test_nothing_at_all_is_incorrect(judged):
    assert not judged("").correct


def test_a_completion_is_cut_after_its_first_episode_with_thinking_closed(tokenizer):
    cut = Grader(tokenizer).after_first_episode(tokenizer.encode(RIGHT))
    assert tokenizer.decode(cut) == "\n2+2=4\nso 4\n</think>"


def test_one_episode_is_kept_whole(tokenizer):
    cut = Grader(tokenizer).after_first_episode(
        tokenizer.encode("\n2+2=4\nso 4\n</think>\n\nThe answer is 4.<|im_end|>")
    )
    assert tokenizer.decode(cut) == "\n2+2=4\nso 4\n</think>"
