import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.recipe_dense import Forks
from training.rollouts import forks
from training.rollouts.engine import Completion
from training.rollouts.episodes import Splitter

END = "</think>\n\nThe answer is 7.<|im_end|>"
ALL = Forks(share=1, surprised=1)


@pytest.fixture
def split(tokenizer):
    return Splitter(tokenizer)


def completion(tokenizer, text: str, nats: float = 1.0) -> Completion:
    ids = tokenizer.encode(text)
    return Completion(ids, [-nats / len(ids)] * len(ids))


def think_on(
    tokenizer, split, texts, settings=ALL, *, more: str = "7+7=14\nmatches 14\n" + END, max_tokens=200, nats=None
):
    asked: list[tuple[list[int], int]] = []

    def sample(prompts: list[list[int]], room: int) -> list[Completion]:
        asked.extend((ids, room) for ids in prompts)
        return [completion(tokenizer, more) for _ in prompts]

    rollouts = [completion(tokenizer, text, n) for text, n in zip(texts, nats or [1.0] * len(texts), strict=True)]
    result = forks.think_on(
        tokenizer, split, [[1, 2]] * len(texts), rollouts, settings, sample=sample, max_tokens=max_tokens
    )
    return *result, asked


def test_a_rollout_that_stopped_thinks_on_behind_a_blank_line(tokenizer, split):
    (forked,), before, asked = think_on(tokenizer, split, [f"7+7=14\nso 14\n{END}"])
    text = tokenizer.decode(forked.ids, skip_special_tokens=False)
    assert text == f"7+7=14\nso 14\n\n7+7=14\nmatches 14\n{END}"
    assert before == [1]
    prefix, room = asked[0]
    assert prefix[:2] == [1, 2], "it is continued from its prompt"
    assert tokenizer.decode(prefix[2:]) == "7+7=14\nso 14\n\n"
    assert room == 200 - len(prefix[2:]), "and is no longer than any other rollout"


def test_what_was_put_there_has_no_probability_and_everything_else_keeps_its_own(tokenizer, split):
    (forked,), _, _ = think_on(tokenizer, split, [f"7+7=14\nso 14\n{END}"])
    unknown = [i for i, value in enumerate(forked.logprobs) if math.isnan(value)]
    assert len(forked.logprobs) == len(forked.ids)
    assert tokenizer.decode([forked.ids[i] for i in unknown]) == "\n\n"


def test_a_fork_counts_the_episodes_that_the_policy_had_thought(tokenizer, split):
    _, before, _ = think_on(tokenizer, split, [f"1\n\n2\n\n3\n{END}", f"1\n{END}"])
    assert before == [3, 1]


@pytest.mark.parametrize(
    "text",
    [END, "7+7=14\nso 14", f"7+7=14{END[:-10]}", "so 14 " * 100 + END],
    ids=["no thinking", "never closed", "cut off in its answer", "more than half of the room"],
)
def test_what_has_not_stopped_or_has_no_room_is_left_as_it_is(tokenizer, split, text):
    (left,), before, asked = think_on(tokenizer, split, [text])
    assert (left.ids, before, asked) == (tokenizer.encode(text), [forks.NEVER], [])


def test_the_most_surprising_rollouts_are_forked_first(tokenizer, split):
    settings = Forks(share=0.5, surprised=1)
    _, before, _ = think_on(tokenizer, split, [f"so 14\n{END}"] * 4, settings, nats=[1, 9, 2, 8])
    assert [count != forks.NEVER for count in before] == [False, True, False, True]


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.floats(0.05, 1), st.floats(0, 1), st.integers(0, 99))
def test_as_many_as_asked_are_chosen_of_those_that_can_be(possible, share, surprised, seed):
    torch.manual_seed(seed)
    rows = forks.choose(torch.tensor(possible), torch.rand(len(possible)), share=share, surprised=surprised)
    assert rows == sorted(set(rows))
    assert len(rows) == min(sum(possible), round(share * len(possible)))
    assert all(possible[row] for row in rows)
