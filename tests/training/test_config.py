from pathlib import Path

import pytest
from pydantic import ValidationError

from training import config
from training.config import DenseReward

GOOD = "name: mine\ndescription: d\nrun_dir: runs/x\npublish_to: out\n"


def recipe_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_every_shipped_recipe_is_valid():
    recipes = [path for path in Path("training/recipes").rglob("*.yaml") if path.parent.name != "accelerate"]
    assert {path.parent.name for path in recipes} == {"recipes", "experiments"}
    for path in recipes:
        config.load(path)


@pytest.mark.parametrize(
    ("addition", "field"),
    [
        ("base: {stepz: 3}", "base.stepz"),
        ("base: {steps: 0}", "base.steps"),
        ("family: {rollouts: 1}", "family.rollouts"),
        ("evaluate: {temperature: 0}", "recipe: evaluate.samples"),
        ("family: {questions: solved}", "recipe: family.questions"),
        ("family: {questions: hard}", "family.questions"),
        ("evaluate: {temperature: 0, samples: 1}", "recipe: profile.samples"),
        ("family: {alphas: [0.1, much]}", "family.alphas.1"),
        ("family: {alphas: [1.0]}", "family.alphas.0"),
        ("evaluate: {temperature: -1}", "evaluate.temperature"),
        ("base: {heads: 3}", "base"),
        ("base: {head_dim: 15}", "base"),
        ("family: {alphas: []}", "family.alphas"),
        ("family: {alphas: [0.1, 0.10]}", "family"),
        ("family: {max_tokens: 2000}", "recipe"),
        ("profile: {prompts: 3}", "profile.prompts"),
        ("sneed: 1", "sneed"),
        ("seed: -1", "seed"),
        ("seed: 4294967296", "seed"),
        ("family: {lr: .inf}", "family.lr"),
        ("evaluate: {temperature: .nan}", "evaluate.temperature"),
        ("family: {alphas: [-0.0, 0.0]}", "family"),
        ("family: {reward: progress, dense: {charge: tokens}}", "family"),
        ("family: {reward: l2t, dense: {charge: tokens, compression_weight: 0}}", "family"),
        ("family: {reward: truncation, dense: {}}", "family"),
        ("family: {reward: l2t, dense: {score: square}}", "family.dense.score"),
        ("family: {reward: l2t, dense: {winsorise: 1}}", "family.dense.winsorise"),
        ("family: {reward: l2t, dense: {charge: tokens, score: rao}}", "family.dense: score"),
        ("family: {reward: l2t, dense: {charge: tokens, per: token}}", "family.dense: per"),
        ("family: {reward: l2t, dense: {compression_weight: 0, winsorise: 0.99}}", "family.dense: winsorise"),
        ("family: {reward: l2t, dense: {compression_weight: 0, scale: running}}", "family.dense: scale"),
        ("family: {reward: progress, dense: {scale: running}}", "family: dense.scale"),
        ("family: {reward: l2t, dense: {redundancy: certainty}}", "family.dense: redundancy"),
        ("family: {reward: l2t, dense: {charge: tokens, redundancy: 0.5}}", "family.dense.redundancy"),
        ("data: {hard_share: 1.1}", "data.hard_share"),
        ("data: {hard_share: -0.1}", "data.hard_share"),
        ("data: {task: gsm8k, path: x, hard_share: 0.5}", "data: hard_share"),
        ("family: {reward: l2t, normalise_advantages: true}", "family"),
        ("family: {max_tokens: 64, overlong_window: 65}", "family"),
        ("family: {overlong_window: -1}", "family.overlong_window"),
        ("family: {tune: full, lora_layers: upper_half}", "family: lora_layers"),
        (
            "base: {model: ./m}\ndata: {task: math, path: x}\nfamily: {deciding: {hard_share: 0.5}}",
            "recipe: family.deciding.hard_share",
        ),
    ],
)
def test_an_invalid_field_is_named(tmp_path, addition, field):
    with pytest.raises(config.RecipeError, match=rf"recipe.yaml: {field}: "):
        config.load(recipe_file(tmp_path, GOOD + addition))


def test_a_dense_reward_s_record_has_a_newer_field_only_where_it_is_set():
    """Or checkpoints and results from before the field would no longer count as made from their recipes."""
    newer = {"score", "per", "winsorise", "scale", "redundancy"}
    assert not newer & config.DenseReward(scale="batch", redundancy="none").record.keys()
    assert "memory_gib" not in config.DenseReward().record
    tamed = config.DenseReward(score="rao", winsorise=0.99).record
    assert {name: tamed[name] for name in newer & tamed.keys()} == {"score": "rao", "winsorise": 0.99}
    assert config.DenseReward().record.items() <= tamed.items()


COLD = "base: {model: ./m, cold_start: {}}\ndata: {task: jsonl, path: q}\n"


@pytest.mark.parametrize(
    ("addition", "answer"),
    [
        ("", "The answer is {}."),
        (COLD, "The answer is \\boxed{{}}."),
        ("family: {dense: {answer: 'So {}!'}}", "So {}!"),
        ("family: {reward: l2t, dense: {answer: 'So {}!'}}", "So {}!"),
        (COLD + "family: {deciding: {}}", "The answer is \\boxed{{}}."),
    ],
)
def test_answers_are_probed_in_the_words_that_the_model_answers_in(tmp_path, addition, answer):
    recipe = config.load(recipe_file(tmp_path, GOOD + addition))
    assert recipe.probe.answer == answer
    recorded = recipe.probe_record.get("probe", {"answer": "The answer is {}."})
    assert recipe.family.dense_reward or recorded["answer"] == answer, "records of the default stay as they were"


def test_without_a_dense_reward_only_its_probe_can_be_set(tmp_path):
    for dense in ("{}", "{credit: paper}", "{answer: 'So {}!', proxy_rank: 8}"):
        with pytest.raises(config.RecipeError, match=r"family: dense: must be absent with reward: alpha, except"):
            config.load(recipe_file(tmp_path, GOOD + f"family: {{dense: {dense}}}"))
    with pytest.raises(config.RecipeError, match=r"family\.dense\.answer: 'So \{\}!' must be base\.cold_start\.answer"):
        config.load(recipe_file(tmp_path, GOOD + COLD + "family: {dense: {answer: 'So {}!'}}"))


def test_a_misspelt_field_is_told_with_the_one_that_was_meant(tmp_path):
    with pytest.raises(config.RecipeError, match=r"family\.rollout: there is no such field; did you mean rollouts\?"):
        config.load(recipe_file(tmp_path, GOOD + "family: {rollout: 8}"))
    with pytest.raises(config.RecipeError, match=r"zzz: there is no such field here"):
        config.load(recipe_file(tmp_path, GOOD + "zzz: 8"))


def test_an_invalid_family_name_is_rejected(tmp_path):
    with pytest.raises(config.RecipeError, match=r"recipe.yaml: name: "):
        config.load(recipe_file(tmp_path, GOOD.replace("name: ", "name: " + "a" * 64)))


def test_duplicate_fields_and_malformed_yaml_are_named_with_their_line(tmp_path):
    with pytest.raises(config.RecipeError, match=r"recipe\.yaml: line 3: not YAML \(seed is there twice\)"):
        config.load(recipe_file(tmp_path, "name: mine\nseed: 1\nseed: 2\n"))
    with pytest.raises(config.RecipeError, match=r"recipe\.yaml: line 3: not YAML \("):
        config.load(recipe_file(tmp_path, "name: mine\nbase: [\nseed: : 2\n"))


def test_publishing_into_the_run_directory_is_rejected(tmp_path):
    for run, target in (("a/run", "a"), ("run", "run"), ("run", "./run")):
        with pytest.raises(config.RecipeError, match=rf"publish_to: {target.removeprefix('./')} would replace run_dir"):
            config.load(recipe_file(tmp_path, f"name: mine\ndescription: d\nrun_dir: {run}\npublish_to: {target}\n"))


@pytest.mark.parametrize("text", ["", "- a list", "name: [unclosed"])
def test_a_malformed_recipe_is_rejected_in_one_line(tmp_path, text):
    with pytest.raises(config.RecipeError) as caught:
        config.load(recipe_file(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_rejected(tmp_path):
    with pytest.raises(config.RecipeError, match="cannot be read"):
        config.load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"credit": "episode"}, "credit: counterfactual"),
        ({"charge": "information"}, "charge: tokens"),
        ({"split_by": "tokens"}, "split_by: blank_line"),
    ],
)
def test_forks_need_what_makes_a_stop_s_worth_known(changed, named):
    settings = {"credit": "counterfactual", "charge": "tokens", "forks": {}}
    assert DenseReward.model_validate(settings).forks is not None
    with pytest.raises(ValidationError, match=f"forks: need {named}"):
        DenseReward.model_validate(settings | changed)
