"""Every thinking token is in exactly one episode, in order, and there are never too many."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.rollouts.episodes import Splitter

PIECES = ["12+35=47", "so 47", "\n", "\n\n", "matches 47", "<episode_1>", "<episode_2>", " ", "</think>", "."]
texts = st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), min_size=1, max_size=4)


def batch(tokenizer, texts):
    rows = [tokenizer.encode(text) for text in texts]
    width = max(1, *map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def said(tokenizer, text, **how):
    """The text of each episode, answer included."""
    ids, mask = batch(tokenizer, [text])
    found = Splitter(tokenizer, **how)(ids, mask)
    return [tokenizer.decode(ids[0][found.index_BT[0] == k]) for k in range(int(found.count_B[0]))]


@given(texts=texts, by=st.sampled_from(["blank_line", "tags", "tokens"]), most=st.integers(1, 4))
def test_every_thinking_token_is_in_one_of_at_most_so_many_episodes_in_order(tokenizer, texts, by, most):
    ids, mask = batch(tokenizer, texts)
    found = Splitter(tokenizer, by, max_episodes=most, every=3)(ids, mask)
    assert torch.equal(found.index_BT >= 0, mask.bool())
    for row, (index, thinking) in enumerate(zip(found.index_BT, found.thinking_BT, strict=True)):
        own = index[mask[row].bool()]
        if not len(own):
            assert found.count_B[row] == 0
            continue
        assert own[0] == 0
        assert own.diff().ge(0).all()
        assert own.diff().le(1).all()
        assert found.count_B[row] == own[-1] + 1 <= most
        if thinking.any():
            assert index[thinking].unique().tolist() == list(range(int(own[-1]) + 1)), "an episode without a thought"
        assert found.tokens_BK[row].tolist() == [
            int((thinking & (index == k)).sum()) for k in range(found.tokens_BK.size(1))
        ]
        words = found.said_BT[row].nonzero()
        assert found.ends_BK[row, -1] == (words.max() + 1 if len(words) else 0)
        assert found.ends_BK[row].diff().ge(0).all()


def test_a_blank_line_belongs_to_the_episode_that_it_opens(tokenizer):
    text = "\n2+2=4\nso 4\n\ncheck step\n2+2=4\nmatches 4\n</think>\n\nThe answer is 4."
    assert said(tokenizer, text) == ["\n2+2=4\nso 4", text.removeprefix("\n2+2=4\nso 4")]


def test_an_episode_ends_with_its_last_word(tokenizer):
    ids, mask = batch(tokenizer, ["\n2+2=4\nso 4\n\ncheck step\nmatches 4\n</think>\n\nThe answer is 4."])
    first, second = (tokenizer.decode(ids[0][:end]) for end in Splitter(tokenizer)(ids, mask).ends_BK[0])
    assert first == "\n2+2=4\nso 4"
    assert second == "\n2+2=4\nso 4\n\ncheck step\nmatches 4"


@pytest.mark.parametrize("gap", ["\n\n", "\n\n\n", "\n \n", "\n\n\n\n"])
def test_more_than_one_blank_line_is_one_break(tokenizer, gap):
    found = said(tokenizer, f"{gap}so 4{gap}matches 4{gap}</think>.")
    assert len(found) == (2 if gap != "\n \n" else 1)


def test_two_newlines_of_different_tokens_are_a_blank_line(tokenizer):
    newline = tokenizer.encode("\n")
    ids = torch.tensor([[*tokenizer.encode("so 4"), *newline, *newline, *tokenizer.encode("matches 4")]])
    assert Splitter(tokenizer)(ids, torch.ones_like(ids)).count_B.tolist() == [2]


def test_tags_start_episodes_however_they_are_tokenized(tokenizer):
    text = "well <episode_1>2+2=4</episode_1><episode_2>4</episode_2></think>The answer is 4."
    first, second = said(tokenizer, text, by="tags")
    assert second.startswith(("<episode_2>", "><episode_2>"))
    assert "2+2=4" in first


def test_tokens_are_counted(tokenizer):
    ids = torch.tensor([tokenizer.encode("1234567")])
    found = Splitter(tokenizer, "tokens", every=3)(ids, torch.ones_like(ids))
    assert found.index_BT.tolist() == [[0, 0, 0, 1, 1, 1, 2]]


def test_the_shortest_episodes_are_merged_with_their_shorter_neighbours(tokenizer):
    text = "123456\n\n1\n\n1234\n\n12345</think>."
    assert said(tokenizer, text, max_episodes=3) == ["123456", "\n\n1\n\n1234", "\n\n12345</think>."]
    assert len(said(tokenizer, text, max_episodes=1)) == 1


def test_thinking_that_never_ends_has_its_episodes(tokenizer):
    assert len(said(tokenizer, "2+2=4\n\n2+2=4")) == 2


def test_what_stops_the_thinking_begins_after_its_last_word(tokenizer):
    """The line break before </think> is where the model decides to stop; a blank line would have gone on."""
    ids, mask = batch(tokenizer, ["\n2+2=4\n\ncheck\nmatches 4\n</think>\n\nThe answer is 4.", "2+2=4\n\n2+2"])
    found = Splitter(tokenizer)(ids, mask)
    assert tokenizer.decode(ids[0][found.stopped_BT[0]]) == "\n</think>\n\nThe answer is 4."
    assert not found.stopped_BT[1].any(), "it never stopped"


def test_a_completion_that_says_nothing_has_nothing_to_stop(tokenizer):
    """It chose not to think where the group's others chose to, so it is to be compared with them there."""
    found = Splitter(tokenizer)(*batch(tokenizer, ["\n</think>\n\nThe answer is 4.", "2+2=4</think>4"]))
    assert not found.stopped_BT[0].any()
    assert found.stopped_BT[1].any()


def test_ids_that_the_tokenizer_does_not_know_are_words(tokenizer):
    ids = torch.tensor([[*tokenizer.encode("2+2\n\n"), len(tokenizer) + 5, *tokenizer.encode("</think>")]])
    for by in ("blank_line", "tags", "tokens"):
        assert Splitter(tokenizer, by)(ids, torch.ones_like(ids)).said_BT[0, -2]
    assert Splitter(tokenizer)(ids, torch.ones_like(ids)).count_B.tolist() == [2]


def test_no_thinking_at_all_is_one_episode(tokenizer):
    ids, mask = batch(tokenizer, ["</think>\n\nThe answer is 4."])
    found = Splitter(tokenizer)(ids, mask)
    assert found.count_B.tolist() == [1]
    assert not found.thinking_BT.any()
    assert found.ends_BK.tolist() == [[0]]


@pytest.mark.parametrize("how", [{"by": "words"}, {"max_episodes": 0}, {"every": 0}])
def test_settings_that_mean_nothing_are_refused(tokenizer, how):
    with pytest.raises(ValueError, match="must be"):
        Splitter(tokenizer, **how)
