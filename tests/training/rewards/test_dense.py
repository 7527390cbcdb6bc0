import pytest
import torch

from training.config import DenseReward
from training.rewards.compression import scores, token_gradients
from training.rewards.dense import EpisodeGrader
from training.rewards.information_gain import information_gains
from training.rollouts.batch import Rollouts
from training.rollouts.params import SamplingParams
from training.rollouts.sample import sample


def rollouts(tokenizer, prompts, completions):
    return Rollouts.padded([tokenizer.encode(p) for p in prompts], [tokenizer.encode(c) for c in completions])


@pytest.fixture
def batch(tokenizer):
    return rollouts(
        tokenizer,
        ["What is 2 + 2?<think>", "What is 12 + 35 - 8?<think>"],
        ["\n2+2=4\n\nso 4</think>\n\nThe answer is 4.", "\n12+35-8=39</think>\n\nThe answer is 39."],
    )


def test_values_have_max_episodes_columns_and_are_zero_after_the_last_episode(model, tokenizer, batch):
    result = EpisodeGrader(tokenizer, DenseReward(max_episodes=5, proxy_rank=4))(model, batch, ["4", "39"])
    assert information_gains(result.success_BK1).shape == result.cost_BK.shape == (2, 5)
    assert result.episodes.count_B.tolist() == [2, 1]
    for values in (information_gains(result.success_BK1), result.cost_BK):
        assert values[0, :2].ne(0).all()
        assert values[0, 2:].eq(0).all()
        assert values[1, 1:].eq(0).all()
    assert result.cost_BK.ge(0).all()


def test_compression_without_a_weight_is_not_measured(model, tokenizer, batch):
    result = EpisodeGrader(tokenizer, DenseReward(compression_weight=0))(model, batch, ["4", "39"])
    assert result.cost_BK.eq(0).all()
    assert information_gains(result.success_BK1).ne(0).any()


def test_information_is_charged_as_the_square_of_the_score(model, tokenizer, batch):
    result = EpisodeGrader(tokenizer, DenseReward(max_episodes=2, proxy_rank=4))(model, batch, ["4", "39"])
    gradient = token_gradients(model, batch, rank=4)
    expected = scores(gradient.output_BTr, gradient.input_BTr, result.episodes.index_BT, 2) ** 2
    torch.testing.assert_close(result.cost_BK, expected, rtol=1e-3, atol=1e-6)


def test_thinking_tokens_can_be_charged_instead_and_the_answer_is_free(model, tokenizer, batch):
    result = EpisodeGrader(tokenizer, DenseReward(max_episodes=3, charge="tokens"))(model, batch, ["4", "39"])
    first, second, only = (len(tokenizer.encode(text)) for text in ("\n2+2=4", "\n\nso 4", "\n12+35-8=39"))
    assert result.cost_BK.tolist() == [[first, second, 0], [only, 0, 0]]


def test_a_rollout_s_values_do_not_depend_on_its_padding(model, tokenizer, batch):
    grader = EpisodeGrader(tokenizer, DenseReward(compression_weight=0))
    both = information_gains(grader(model, batch, ["4", "39"]).success_BK1)
    alone = rollouts(tokenizer, ["What is 2 + 2?<think>"], ["\n2+2=4\n\nso 4</think>\n\nThe answer is 4."])
    torch.testing.assert_close(
        information_gains(grader(model, alone, ["4"]).success_BK1)[0], both[0], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("settings", [{"charge": "tokens"}, {"compression_weight": 0}, {"proxy_rank": 4}])
def test_kv_caches_from_sampling_change_no_value(model, tokenizer, settings):
    torch.manual_seed(0)
    prompts, from_sampling = [tokenizer.encode(text) for text in ("What is 2 + 2?<think>", "7 + 12?<think>")], []
    completions = sample(model, prompts, SamplingParams(30, 1.0), eos=tokenizer.eos_token_id, kv_caches=from_sampling)
    rollouts = Rollouts.padded(prompts, completions)
    grader = EpisodeGrader(tokenizer, DenseReward(max_episodes=3, **settings))
    result, expected = (
        grader(model, rollouts, ["4", "19"], kv_caches=kv_caches) for kv_caches in (from_sampling, None)
    )
    torch.testing.assert_close(result.success_BK1, expected.success_BK1, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.cost_BK, expected.cost_BK)


def test_a_probe_is_the_answer_as_the_model_would_write_it(tokenizer):
    probe = EpisodeGrader(tokenizer, DenseReward()).probe("39")
    assert tokenizer.decode(probe.stop) == "\n</think>\n\nThe answer is "
    assert tokenizer.decode(probe.answer) == "39."


def test_a_token_shared_by_stop_and_answer_belongs_to_the_answer(tokenizer):
    probe = EpisodeGrader(tokenizer, DenseReward(answer="The answer is{}.")).probe(" yes")
    assert tokenizer.decode(probe.stop + probe.answer) == "\n</think>\n\nThe answer is yes."
    assert "yes" in tokenizer.decode(probe.answer)


def test_the_model_s_mode_is_restored(model, tokenizer, batch):
    model.train()
    EpisodeGrader(tokenizer, DenseReward(proxy_rank=4))(model, batch, ["4", "39"])
    assert model.training
