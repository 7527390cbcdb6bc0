"""What is wrong with a recipe is said in one line, before anything is computed."""

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


def test_a_tokenizer_without_markers_is_refused_before_anything_is_computed(on_shipped, spoken, model, tmp_path):
    plain = tmp_path / "plain"
    model.save_pretrained(plain)
    spoken.save_pretrained(plain)
    for file in plain.glob("*.json"):
        file.write_text(file.read_text().replace("</think>", "</thing>"))
    with pytest.raises(StageError, match=r"plain: its tokenizer has no token </think>"):
        stages.family(on_shipped.model_copy(update={"base": PretrainedBase(model=str(plain))}))


def test_data_that_cannot_be_used_is_named_before_anything_is_computed(on_shipped, tmp_path):
    empty = tmp_path / "mine.jsonl"
    empty.write_text("")
    with pytest.raises(StageError, match=r"mine\.jsonl has no questions"):
        stages.family(on_shipped.model_copy(update={"data": Data(task="jsonl", path=empty)}))
