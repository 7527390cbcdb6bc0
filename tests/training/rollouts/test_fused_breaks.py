"""Tokens that hold the end of a sentence and the blank line after it, as Qwen's do: episode, probe and credit agree."""

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.training.conftest import TINY
from training.base import train
from training.config import DenseReward
from training.rewards import credit
from training.rewards.dense import EpisodeGrader
from training.rewards.information_gain import answer_probabilities
from training.rollouts.batch import Rollouts
from training.rollouts.episodes import Splitter
from training.rollouts.grade import Grader

WORDS = [
    "</think>",
    "<|im_end|>",
    ".\n\n",
    ".\n",
    ".",
    "\n\n",
    "\n",
    "\n\nSo",
    "a.\n\nb",
    " ",
    "so",
    "4",
    "check",
    "The",
    "is",
]


@pytest.fixture(scope="module")
def fused() -> PreTrainedTokenizerFast:
    """A tokenizer whose pieces are those words: `.` takes the line breaks after it, as in Qwen's."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*WORDS, "?"])}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"</think>|\.\n*|\n+|[a-zA-Z]+|\d| "), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|im_end|>", additional_special_tokens=["</think>"]
    )


def episodes_of(fused, words):
    ids_1T = torch.tensor([[WORDS.index(word) for word in words]])
    return ids_1T, Splitter(fused)(ids_1T, torch.ones_like(ids_1T))


@pytest.mark.parametrize(
    ("words", "index"),
    [
        (["so", "4", ".\n\n", "check", "4", ".\n", "</think>", "4"], [0, 0, 0, 1, 1, 1, 1, 1]),
        (["so", ".\n", "\n", "check", "</think>"], [0, 0, 1, 1, 1]),
        (["so", ".\n", "check", "</think>"], [0, 0, 0, 0]),
        (["so", ".\n\n", "\n", "check", "</think>"], [0, 0, 1, 1, 1]),
        (["so", ".", "\n\nSo", "check", "</think>"], [0, 0, 1, 1, 1]),
        (["so", ".\n", "\n\nSo", "check", "</think>"], [0, 0, 1, 1, 1]),
        (["so", "a.\n\nb", "check", "</think>"], [0, 0, 1, 1]),
        (["so", ".\n\n", "</think>", "4"], [0, 0, 0, 0]),
        ([".\n\n", "so", "</think>"], [0, 1, 1]),
        (["\n\nSo", "check", "</think>"], [0, 0, 0]),
    ],
)
def test_a_fused_break_belongs_to_the_episode_that_it_ends(fused, words, index):
    assert episodes_of(fused, words)[1].index_BT.tolist() == [index]


def test_a_probe_sees_the_fused_token_and_adds_no_second_line_break(fused):
    _, episodes = episodes_of(fused, ["so", ".\n\n", "check", "4", "\n\n", "so", "\n", "</think>"])
    assert episodes.ends_BK.tolist() == [[2, 4, 6]]
    assert episodes.closed_BK.tolist() == [[True, False, False]]


def test_the_shortened_completion_is_the_first_probe_s_prefix(fused):
    grade = Grader(fused)
    fused_ids = [WORDS.index(word) for word in ("so", ".\n\n", "check", "</think>")]
    apart = [WORDS.index(word) for word in ("so", ".", "\n\n", "check", "</think>")]
    assert [WORDS[i] for i in grade.after_first_episode(fused_ids)] == ["so", ".\n\n", "</think>"]
    assert [WORDS[i] for i in grade.after_first_episode(apart)] == ["so", ".", "\n", "</think>"]


def test_packed_probes_after_fused_tokens_equal_one_pass_per_prefix(fused):
    torch.manual_seed(0)
    model = train.new_model(TINY, fused).eval()
    ids_1T, episodes = episodes_of(fused, ["so", ".\n\n", "check", "4", "\n\n", "so", ".\n\n", "4", "</think>"])
    prompt = [WORDS.index("so"), WORDS.index("4")]
    rollouts = Rollouts.padded([prompt], [ids_1T[0].tolist()])
    probe = EpisodeGrader(fused, DenseReward(answer="The {}.")).probe("4")
    assert probe.newline == 1
    packed_BK1 = answer_probabilities(model, rollouts, episodes.ends_BK, [probe], closed_BK=episodes.closed_BK)
    prefixes = zip([0, *episodes.ends_BK[0].tolist()], [False, *episodes.closed_BK[0].tolist()], strict=True)
    for k, (end, closed) in enumerate(prefixes):
        stop = probe.stop[probe.newline :] if closed else probe.stop
        ids = [*prompt, *ids_1T[0, :end].tolist(), *stop, *probe.answer]
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        first = len(ids) - len(probe.answer)
        alone = sum(logp[at - 1, ids[at]] for at in range(first, len(ids))).exp()
        assert packed_BK1[0, k].item() == pytest.approx(alone.item(), abs=1e-5)


def test_the_fused_token_earns_its_own_episode_and_the_next_token_the_decision_to_go_on(fused):
    _, episodes = episodes_of(fused, ["so", ".\n\n", "check", "</think>", "4"])
    settings = {"own": slice(0, 1), "group_size": 2, "progress_weight": 1.0}
    outcome, gains, counts = torch.tensor([1.0, 0.0]), torch.tensor([[0.25, 0.5], [0.0, 0.0]]), torch.tensor([2, 1])
    by_episode = credit.episode_advantages(outcome, gains, counts, index_BT=episodes.index_BT, **settings)[0]
    assert by_episode[0] == by_episode[1] != by_episode[2] == by_episode[4]
    success = torch.tensor([[0.0, 0.25, 0.75], [0.0, 0.0, 0.0]])
    by_decision = credit.counterfactual_advantages(
        outcome,
        success,
        gains,
        counts,
        index_BT=episodes.index_BT,
        stopped_BT=episodes.stopped_BT,
        outcome_alpha=0.0,
        **settings,
    )[0]
    assert by_decision.tolist() == pytest.approx([1.25, 1.25, 1.25, 0.25, 0.25])
