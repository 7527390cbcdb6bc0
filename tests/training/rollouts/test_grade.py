import pytest

from training.config import DenseReward
from training.rollouts.grade import Grader


@pytest.fixture
def judged(spoken):
    judge = Grader(spoken)
    return lambda text, gold="4": judge(spoken.encode(text), gold)


RIGHT = "\n2+2=4\nso 4\n\ncheck step\n2+2=4\nmatches 4\n</think>\n\nThe answer is 4.<|im_end|>"


def test_a_right_answer_after_thinking(judged):
    assert judged(RIGHT).correct
    assert not judged(RIGHT, "5").correct


def test_reasoning_tokens_are_those_before_the_end_marker(judged, spoken):
    assert judged(RIGHT).reasoning_tokens == len(spoken.encode(RIGHT.partition("</think>")[0]))
    assert judged(RIGHT).tokens == len(spoken.encode(RIGHT))


def test_episodes_are_separated_by_blank_lines_of_the_thinking(judged):
    assert judged(RIGHT).episodes == 2


def test_episodes_are_split_as_the_dense_reward_splits_them(spoken):
    text = "<episode_1>2+2=4<episode_2>matches 4</think>The answer is 4.<|im_end|>"
    assert Grader(spoken, DenseReward(split_by="tags"))(spoken.encode(text), "4").episodes == 2
    assert Grader(spoken, DenseReward(split_by="tokens", tokens_per_episode=3))(spoken.encode(text), "4").episodes > 2
    assert Grader(spoken)(spoken.encode(text), "4").episodes == 1


def test_an_answer_that_was_cut_off_is_incorrect(judged):
    cut = judged(RIGHT.removesuffix("<|im_end|>"))
    assert not cut.correct
    assert not cut.finished


def test_thinking_that_never_ends_is_incorrect_and_all_of_it_counts(judged, spoken):
    text = "\nThe answer is 4.<|im_end|>"
    assert not judged(text).correct
    assert judged(text).reasoning_tokens == len(spoken.encode(text))


def test_nothing_at_all_is_incorrect(judged):
    assert not judged("").correct


def test_a_completion_is_cut_after_its_first_episode_with_thinking_closed(spoken):
    cut = Grader(spoken).after_first_episode(spoken.encode(RIGHT))
    assert spoken.decode(cut) == "\n2+2=4\nso 4\n</think>"


def test_one_episode_is_kept_whole(spoken):
    cut = Grader(spoken).after_first_episode(spoken.encode("\n2+2=4\nso 4\n</think>\n\nThe answer is 4.<|im_end|>"))
    assert spoken.decode(cut) == "\n2+2=4\nso 4\n</think>"
