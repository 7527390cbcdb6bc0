"""What is wrong with a recipe is said in one line, before anything is computed."""

import copy

import pytest

from training import checks, stages
from training.config import Data, PretrainedBase
from training.errors import StageError


@pytest.mark.parametrize("there", ["notes.txt", "family/weights"])
def test_publishing_replaces_nothing_but_a_family(on_shipped, tmp_path, there):
    target = tmp_path / "published"
    recipe = on_shipped.model_copy(update={"publish_to": target})
    file = target / there
    file.parent.mkdir(parents=True)
    file.write_text("my own")
    with pytest.raises(StageError, match=r"publish_to: .*published is no family's directory"):
        checks.check_target(recipe)
    (target / "family.json").write_text("{}")
    checks.check_target(recipe)


def test_without_a_place_to_publish_nothing_is_published(on_shipped):
    with pytest.raises(StageError, match="publish_to: the recipe does not say"):
        checks.check_target(on_shipped)


def test_a_tokenizer_without_markers_is_refused_before_anything_is_computed(on_shipped, tokenizer, model, tmp_path):
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
def test_a_tokenizer_that_cannot_put_a_question_or_end_an_answer_is_refused(based, missing, named):
    recipe, _ = based("odd", **{missing: None})
    with pytest.raises(StageError, match=f"odd: its tokenizer has {named}"):
        checks.check(recipe)


def test_weights_that_were_cut_short_are_named(based):
    recipe, directory = based("cut")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StageError, match=r"cut/model\.safetensors: cannot be read as safetensors"):
        checks.check(recipe)


def test_more_context_than_the_base_has_positions_is_refused(on_shipped):
    long = on_shipped.base.model_copy(update={"context_tokens": 2048})
    with pytest.raises(StageError, match=r"base\.context_tokens: 2048 is more than the 1024 positions"):
        checks.check(on_shipped.model_copy(update={"base": long}))


def test_a_run_directory_that_is_a_file_is_named(on_shipped, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(StageError, match=r"run_dir: .*run is a file"):
        checks.check(on_shipped.model_copy(update={"run_dir": tmp_path / "run" / "mine"}))


def test_data_that_cannot_be_used_is_named_before_anything_is_computed(on_shipped, tmp_path):
    empty = tmp_path / "mine.jsonl"
    empty.write_text("")
    with pytest.raises(StageError, match=r"mine\.jsonl has no questions"):
        stages.family(on_shipped.model_copy(update={"data": Data(task="jsonl", path=empty)}))
