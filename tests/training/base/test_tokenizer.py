from hypothesis import given
from hypothesis import strategies as st

from training.base import traces
from training.base.tokenizer import SPECIAL


@given(st.text())
def test_any_text_is_encoded_and_decoded_unchanged(tokenizer, text):
    if not any(marker in text for marker in SPECIAL):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.integers(0, 10**12))
def test_each_digit_is_a_token(tokenizer, number):
    assert len(tokenizer.encode(str(number))) == len(str(number))


def test_an_episode_break_is_one_token(tokenizer):
    assert len(tokenizer.encode(traces.EPISODE_BREAK)) == 1
    assert len(tokenizer.encode("<think>")) == len(tokenizer.encode("</think>")) == 1


def test_the_prompt_opens_the_thinking_unless_it_is_switched_off(tokenizer):
    def written(**options: object) -> str:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": "1+1"}], add_generation_prompt=True, tokenize=False, **options
        )

    prompt = "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
    assert written() == prompt + "<think>"
    assert written(enable_thinking=False) == prompt + "<think>\n\n</think>\n\n"


def test_content_in_parts_is_templated_like_content_in_one_piece(tokenizer):
    parts = [{"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1"}]}]
    whole = [{"role": "user", "content": "1+1"}]
    assert tokenizer.apply_chat_template(parts, tokenize=False) == tokenizer.apply_chat_template(whole, tokenize=False)


def test_reasoning_markers_survive_decoding(tokenizer):
    ids = tokenizer.encode("</think>\n\nThe answer is 4.<|im_end|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "</think>\n\nThe answer is 4."
