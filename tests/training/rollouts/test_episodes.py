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


def split(tokenizer, text, **how):
    """The text of each episode, answer included."""
    ids, mask = batch(tokenizer, [text])
    result = Splitter(tokenizer, **how)(ids, mask)
    return [tokenizer.decode(ids[0][result.index_BT[0] == k]) for k in range(int(result.count_B[0]))]


@given(texts=texts, by=st.sampled_from(["blank_line", "tags", "tokens"]), most=st.integers(1, 4))
def test_every_thinking_token_is_in_one_of_at_most_so_many_episodes_in_order(tokenizer, texts, by, most):
    ids, mask = batch(tokenizer, texts)
    result = Splitter(tokenizer, by, max_episodes=most, every=3)(ids, mask)
    assert torch.equal(result.index_BT >= 0, mask.bool())
    for row, (index, thinking) in enumerate(zip(result.index_BT, result.thinking_BT, strict=True)):
        own = index[mask[row].bool()]
        if not len(own):
            assert result.count_B[row] == 0
            continue
        assert own[0] == 0
        assert own.diff().ge(0).all()
        assert own.diff().le(1).all()
        assert result.count_B[row] == own[-1] + 1 <= most
        if thinking.any():
            assert index[thinking].unique().tolist() == list(range(int(own[-1]) + 1)), "an episode without a thought"
        assert result.tokens_BK[row].tolist() == [
            int((thinking & (index == k)).sum()) for k in range(result.tokens_BK.size(1))
        ]
        words = result.word_BT[row].nonzero()
        assert result.ends_BK[row, -1] == (words.max() + 1 if len(words) else 0)
        assert result.ends_BK[row].diff().ge(0).all()


def test_a_blank_line_belongs_to_the_episode_that_it_opens(tokenizer):
    text = "\n2+2=4\nso 4\n\ncheck step\n2+2=4\nmatches 4\n</think>\n\nThe answer is 4."
    assert split(tokenizer, text) == ["\n2+2=4\nso 4", text.removeprefix("\n2+2=4\nso 4")]


def test_an_episode_ends_with_its_last_word(tokenizer):
    ids, mask = batch(tokenizer, ["\n2+2=4\nso 4\n\ncheck step\nmatches 4\n</think>\n\nThe answer is 4."])
    first, second = (tokenizer.decode(ids[0][:end]) for end in Splitter(tokenizer)(ids, mask).ends_BK[0])
    assert first == "\n2+2=4\nso 4"
    assert second == "\n2+2=4\nso 4\n\ncheck step\nmatches 4"


@pytest.mark.parametrize("gap", ["\n\n", "\n\n\n", "\n \n", "\n\n\n\n"])
def test_more_than_one_blank_line_is_one_break(tokenizer, gap):
    result = split(tokenizer, f"{gap}so 4{gap}matches 4{gap}</think>.")
    assert len(result) == (2 if gap != "\n \n" else 1)


def test_two_newlines_of_different_tokens_are_a_blank_line(tokenizer):
    newline = tokenizer.encode("\n")
    ids = torch.tensor([[*tokenizer.encode("so 4"), *newline, *newline, *tokenizer.encode("matches 4")]])
    assert Splitter(tokenizer)(ids, torch.ones_like(ids)).count_B.tolist() == [2]


def test_tags_start_episodes_however_they_are_tokenized(tokenizer):
    text = "well <episode_1>2+2=4</episode_1><episode_2>4</episode_2></think>The answer is 4."
    first, second = split(tokenizer, text, by="tags")
    assert second.startswith(("<episode_2>", "><episode_2>"))
    assert "2+2=4" in first


def test_tokens_are_counted(tokenizer):
    ids = torch.tensor([tokenizer.encode("1234567")])
    result = Splitter(tokenizer, "tokens", every=3)(ids, torch.ones_like(ids))
    assert result.index_BT.tolist() == [[0, 0, 0, 1, 1, 1, 2]]


def test_the_shortest_episodes_are_merged_with_their_shorter_neighbours(tokenizer):
    text = "123456\n\n1\n\n1234\n\n12345</think>."
    assert split(tokenizer, text, max_episodes=3) == ["123456", "\n\n1\n\n1234", "\n\n12345</think>."]
    assert len(split(tokenizer, text, max_episodes=1)) == 1


def test_thinking_that_is_never_closed_is_split_too(tokenizer):
    assert len(split(tokenizer, "2+2=4\n\n2+2=4")) == 2


def test_the_stop_begins_after_the_last_word_of_the_thinking(tokenizer):
    """At the line break before </think> the model decides to stop; a blank line would have continued."""
    ids, mask = batch(tokenizer, ["\n2+2=4\n\ncheck\nmatches 4\n</think>\n\nThe answer is 4.", "2+2=4\n\n2+2"])
    result = Splitter(tokenizer)(ids, mask)
    assert tokenizer.decode(ids[0][result.stopped_BT[0]]) == "\n</think>\n\nThe answer is 4."
    assert not result.stopped_BT[1].any(), "it never stopped"


def test_a_completion_that_stops_without_a_word_has_no_stop_of_its_own(tokenizer):
    """It decided against thinking where the others of its group decided for it, so it is compared with them there."""
    result = Splitter(tokenizer)(*batch(tokenizer, ["\n</think>\n\nThe answer is 4.", "2+2=4</think>4"]))
    assert not result.stopped_BT[0].any()
    assert result.stopped_BT[1].any()


def test_ids_beyond_the_tokenizer_s_vocabulary_count_as_words(tokenizer):
    ids = torch.tensor([[*tokenizer.encode("2+2\n\n"), len(tokenizer) + 5, *tokenizer.encode("</think>")]])
    for by in ("blank_line", "tags", "tokens"):
        assert Splitter(tokenizer, by)(ids, torch.ones_like(ids)).word_BT[0, -2]
    assert Splitter(tokenizer)(ids, torch.ones_like(ids)).count_B.tolist() == [2]


def test_no_thinking_at_all_is_one_episode(tokenizer):
    ids, mask = batch(tokenizer, ["</think>\n\nThe answer is 4."])
    result = Splitter(tokenizer)(ids, mask)
    assert result.count_B.tolist() == [1]
    assert not result.thinking_BT.any()
    assert result.ends_BK.tolist() == [[0]]


@pytest.mark.parametrize("how", [{"by": "words"}, {"max_episodes": 0}, {"every": 0}])
def test_meaningless_settings_are_rejected(tokenizer, how):
    with pytest.raises(ValueError, match="must be"):
        Splitter(tokenizer, **how)
