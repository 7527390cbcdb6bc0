from hypothesis import given
from hypothesis import strategies as st

from training.base import traces
from training.base.tokenizer import SPECIAL


@given(st.text())
def test_any_text_can_be_typed_and_comes_back(spoken, text):
    if not any(marker in text for marker in SPECIAL):
        assert spoken.decode(spoken.encode(text)) == text


@given(st.integers(0, 10**12))
def test_digits_stand_alone(spoken, number):
    assert len(spoken.encode(str(number))) == len(str(number))


def test_an_episode_break_is_one_token(spoken):
    assert len(spoken.encode(traces.EPISODE_BREAK)) == 1
    assert len(spoken.encode("<think>")) == len(spoken.encode("</think>")) == 1


def test_the_prompt_opens_the_thinking_unless_it_is_switched_off(spoken):
    def written(**options: object) -> str:
        return spoken.apply_chat_template(
            [{"role": "user", "content": "1+1"}], add_generation_prompt=True, tokenize=False, **options
        )

    asked = "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
    assert written() == asked + "<think>"
    assert written(enable_thinking=False) == asked + "<think>\n\n</think>\n\n"


def test_content_in_parts_reads_like_content_in_one_piece(spoken):
    parts = [{"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1"}]}]
    whole = [{"role": "user", "content": "1+1"}]
    assert spoken.apply_chat_template(parts, tokenize=False) == spoken.apply_chat_template(whole, tokenize=False)


def test_reasoning_markers_survive_decoding(spoken):
    ids = spoken.encode("</think>\n\nThe answer is 4.<|im_end|>")
    assert spoken.decode(ids, skip_special_tokens=True) == "</think>\n\nThe answer is 4."
