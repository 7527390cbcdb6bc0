from pathlib import Path

import pytest

from training.adopt import levels
from training.errors import StageError


def test_words_become_levels_in_their_order():
    off, capped, low, most = levels.parse("off, 512,low,max", "Qwen/Qwen3-8B")
    assert [off.name, capped.name, low.name, most.name] == ["off", "budget-512", "low", "max"]
    assert off.overrides.body == {"chat_template_kwargs": {"enable_thinking": False}}
    assert (capped.budget, capped.overrides.body) == (512, {})
    assert low.overrides.body == {"reasoning_effort": "low"}
    assert (most.budget, most.overrides.body, most.model) == (None, {}, "Qwen/Qwen3-8B")
    assert [level.thinks for level in (off, capped, low, most)] == [False, True, True, True]
    assert levels.reference([off, capped, low, most]) == most


def test_a_file_says_everything_else(tmp_path: Path):
    file = tmp_path / "levels.toml"
    file.write_text(
        '[brief]\nsystem = "The number alone."\nsuffix = "/no_think"\n[cool]\ndefaults = {temperature = 0.1}\n'
        '[large]\nmodel = "Qwen/Qwen3-32B"\nbudget = 2048\nbody = {reasoning_effort = "low"}\n'
    )
    brief, cool, large = levels.parse(str(file), "small")
    assert (brief.name, brief.model) == ("brief", "small")
    assert (brief.overrides.system, brief.overrides.suffix) == ("The number alone.", "/no_think")
    assert cool.overrides.defaults == {"temperature": 0.1}
    assert (large.model, large.budget, large.overrides.body) == ("Qwen/Qwen3-32B", 2048, {"reasoning_effort": "low"})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("max", "one level leaves nothing to choose"),
        ("", "one level"),
        ("off,off", "off is given twice"),
        ("off,quick", "'quick' is neither"),
        ("off,0", "'0' is neither"),
        ("off,-5", "'-5' is neither"),
        ("missing.toml", "cannot read missing.toml"),
    ],
)
def test_wrong_levels_are_named(text: str, named: str):
    with pytest.raises(StageError, match=named):
        levels.parse(text, "m")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[a]\nbudget = 0\n[b]\n", "a.budget: "),
        ("[a]\nbudget = '5'\n[b]\n", "a.budget: "),
        ("[a]\nsystm = 'x'\n[b]\n", "a.systm: "),
        ("[a]\nbody = {model = 'x'}\n[b]\n", "a.body: .*model cannot be overridden"),
        ("['A B']\n[b]\n", "'A B': use lower-case"),
        ("a = 1\n[b]\n", "a.*: "),
        ("[a\n", "is not TOML"),
    ],
)
def test_a_wrong_file_names_the_level_and_the_field(tmp_path: Path, text: str, named: str):
    file = tmp_path / "levels.toml"
    file.write_text(text)
    with pytest.raises(StageError, match=named) as error:
        levels.parse(str(file), "m")
    assert "\n" not in str(error.value)
