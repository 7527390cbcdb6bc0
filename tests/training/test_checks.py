"""A recipe that cannot run is rejected in one line before anything is computed."""

import copy
from types import SimpleNamespace

import pytest
from transformers import Gemma3TextConfig, Qwen3NextConfig

from training import checks, precheck, stages
from training.config import Data
from training.errors import StageError
from training.experiments import experiment
from training.recipe_base import PretrainedBase
from training.recipe_deciding import Deciding


@pytest.mark.parametrize("existing", ["notes.txt", "family/weights"])
def test_publishing_replaces_only_a_family(on_shipped, tmp_path, existing):
    target = tmp_path / "published"
    recipe = on_shipped.model_copy(update={"publish_to": target})
    file = target / existing
    file.parent.mkdir(parents=True)
    file.write_text("my own")
    with pytest.raises(StageError, match=r"publish_to: .*published contains something other than a family"):
        precheck.check_target(recipe)
    (target / "family.json").write_text("{}")
    precheck.check_target(recipe)


def test_a_recipe_without_a_target_is_not_published(on_shipped):
    with pytest.raises(StageError, match="publish_to: missing from the recipe"):
        precheck.check_target(on_shipped)


def test_a_tokenizer_without_markers_is_rejected_before_training(on_shipped, tokenizer, model, tmp_path):
    plain = tmp_path / "plain"
    model.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    for file in plain.glob("*.json"):
        file.write_text(file.read_text().replace("</think>", "</thing>"))
    with pytest.raises(StageError, match=r"plain: its tokenizer has no token </think>"):
        stages.family(on_shipped.model_copy(update={"base": PretrainedBase(model=str(plain))}))


@pytest.fixture
def based(on_shipped, tokenizer, model, tmp_path):
    """A recipe on a tiny base whose tokenizer has been changed, and the base's directory."""

    def make(name, **changes):
        directory = tmp_path / name
        model.save_pretrained(directory)
        changed = copy.deepcopy(tokenizer)
        for field, value in changes.items():
            setattr(changed, field, value)
        changed.save_pretrained(directory)
        base = PretrainedBase(model=str(directory), context_tokens=512)
        return on_shipped.model_copy(update={"base": base}), directory

    return make


@pytest.mark.parametrize(("missing", "named"), [("eos_token", "no eos_token"), ("chat_template", "no chat template")])
def test_a_tokenizer_without_chat_template_or_eos_token_is_rejected(based, missing, named):
    recipe, _ = based("odd", **{missing: None})
    with pytest.raises(StageError, match=f"odd: its tokenizer has {named}"):
        checks.check(recipe)


def test_truncated_weights_are_named(based):
    recipe, directory = based("truncated")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StageError, match=r"truncated/model\.safetensors: cannot be read as safetensors"):
        checks.check(recipe)


def test_more_context_than_the_base_has_positions_is_rejected(on_shipped):
    long = on_shipped.base.model_copy(update={"context_tokens": 2048})
    with pytest.raises(StageError, match=r"base\.context_tokens: 2048 is more than the 1024 positions"):
        checks.check(on_shipped.model_copy(update={"base": long}))


def test_a_run_directory_that_is_a_file_is_named(on_shipped, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(StageError, match=r"run_dir: .*run is a file"):
        checks.check(on_shipped.model_copy(update={"run_dir": tmp_path / "run" / "mine"}))


def test_unusable_data_is_named_before_training(on_shipped, tmp_path):
    empty = tmp_path / "mine.jsonl"
    empty.write_text("")
    with pytest.raises(StageError, match=r"mine\.jsonl has no questions"):
        stages.family(on_shipped.model_copy(update={"data": Data(task="jsonl", path=empty)}))


def layered(based, config):
    """A recipe on a base of this architecture; of its weights nothing is read."""
    recipe, directory = based("layered")
    config.save_pretrained(directory)
    family = recipe.family.model_copy(update={"reward": "alpha"})
    return recipe.model_copy(update={"family": family})


SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
WINDOWED = Gemma3TextConfig(**SMALL, vocab_size=64, sliding_window=256, layer_types=["sliding_attention"] * 4)
RECURRENT = Qwen3NextConfig(**SMALL, vocab_size=64)


@pytest.mark.parametrize(("config", "kind"), [(WINDOWED, "some with a window of 256"), (RECURRENT, "recurrent ones")])
def test_probes_need_a_base_that_attends_to_the_whole_context(based, monkeypatch, config, kind):
    recipe = layered(based, config)
    monkeypatch.setattr(checks.trl_settings, "samples_from_server", lambda _: True)
    checks.check(recipe)
    uses = {"family.reward: l2t": {"reward": "l2t"}, "family.deciding": {"deciding": Deciding()}}
    for field, change in uses.items():
        own = recipe.model_copy(update={"family": recipe.family.model_copy(update=change)})
        with pytest.raises(StageError, match=rf"^{field}: needs a base .* \(512\), and .*layered has {kind}$"):
            checks.check(own)
    with pytest.raises(StageError, match=rf"first episode's P\(answer\): needs a base .* {kind}"):
        experiment.check([recipe], recipe.run_dir)


def test_a_window_that_holds_the_whole_context_is_none(based):
    recipe = layered(based, WINDOWED)
    short = recipe.base.model_copy(update={"context_tokens": 256})
    family = recipe.family.model_copy(update={"reward": "l2t", "deciding": Deciding()})
    checks.check(recipe.model_copy(update={"base": short, "family": family}))


def test_recurrent_layers_are_not_sampled_from_in_this_process(based, monkeypatch):
    recipe = layered(based, RECURRENT)
    with pytest.raises(StageError, match=r"^family\.engine: transformers samples in this process, .*layered has some$"):
        checks.check(recipe)
    monkeypatch.setattr(checks.trl_settings, "samples_from_server", lambda _: False)
    vllm = recipe.model_copy(update={"family": recipe.family.model_copy(update={"engine": "vllm"})})
    with pytest.raises(StageError, match=r"^family\.engine: vllm on a GPU .* in this process"):
        checks._require_layers(vllm, RECURRENT)


def test_deciding_runs_in_one_process_only(on_shipped, monkeypatch):
    recipe = on_shipped.model_copy(update={"family": on_shipped.family.model_copy(update={"deciding": Deciding()})})
    checks.check(recipe)
    monkeypatch.setattr(checks, "processes", lambda: SimpleNamespace(num_processes=8))
    with pytest.raises(StageError, match=r"family\.deciding: runs in one process, not in 8"):
        checks.check(recipe)
