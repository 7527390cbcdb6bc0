"""A chat template that would make every rollout wrong is refused at the start, in one line."""

import copy
from pathlib import Path

import pytest

from training.errors import StageError
from training.job import base_files, checkpoints
from training.job.template import opening
from training.recipe_base import ColdStart, PretrainedBase

USER = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n"


def made(tokenizer, text):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = text
    return changed


@pytest.mark.parametrize(
    "closing",
    [
        r"<think>\n\n</think>\n\n",
        "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
        "{% if enable_thinking is not defined %}</think>{% endif %}",
        "<think>I am sure.</think>",
    ],
)
def test_run_and_plan_refuse_a_template_that_closes_the_thinking(tokenizer, tmp_path, closing):
    closed = made(tokenizer, f"{USER}{PROMPT}{closing}{{% endif %}}")
    with pytest.raises(StageError, match="closes the thinking by itself") as caught:
        checkpoints.require_markers(Path("mine"), closed)
    closed.save_pretrained(tmp_path)
    for cold_start in (None, ColdStart()):
        with pytest.raises(StageError, match="closes the thinking by itself"):
            base_files._check_tokenizer(tmp_path, PretrainedBase(model=str(tmp_path), cold_start=cold_start))
    assert str(caught.value).startswith("mine: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"{USER}{PROMPT}<think>\n{{% endif %}}",
        f"{USER}{PROMPT}{{% if enable_thinking is defined %}}<think></think>{{% endif %}}{{% endif %}}",
        f"Think in <think></think> first.\n{USER}{PROMPT}{{% endif %}}",
        f"{USER}{PROMPT}{{% endif %}}".replace("<|im_end|>", " Think in <think></think>.<|im_end|>", 1),
        USER.replace("m.content", "m.content.split('</think>')[-1]") + PROMPT + "{% endif %}",
    ],
)
def test_a_template_that_leaves_the_thinking_open_mentions_it_or_strips_earlier_thinking_is_taken(
    tokenizer, tmp_path, text
):
    checkpoints.require_markers(Path("mine"), made(tokenizer, text))
    made(tokenizer, text).save_pretrained(tmp_path)
    base_files._check_tokenizer(tmp_path, PretrainedBase(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no chat template"),
        (f"You help.{PROMPT}{{% endif %}}", "leaves the user's question out"),
        ("{{ raise_exception('a system message is needed') }}", "fails on one message .*a system message is needed"),
        ("{% for", "fails on one message"),
    ],
)
def test_a_template_that_cannot_ask_is_refused(tokenizer, text, message):
    with pytest.raises(StageError, match=message) as caught:
        opening("mine", made(tokenizer, text))
    assert "\n" not in str(caught.value)


def test_a_model_without_the_end_mark_is_sent_to_the_cold_start(tokenizer, monkeypatch):
    monkeypatch.setattr(checkpoints, "THINK_END", "</ponder>")
    with pytest.raises(StageError, match=r"mine: its tokenizer has no token </think>.*`laconic-train cold-start`"):
        checkpoints.require_markers(Path("mine"), tokenizer)
