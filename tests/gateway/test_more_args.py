"""What an operator may add to the embedded engine's arguments."""

from __future__ import annotations

import pytest

from gateway.more_args import words


def test_a_line_is_split_as_a_shell_does() -> None:
    assert words('--tool-call-parser hermes --default-chat-template-kwargs \'{"a": "b c"}\'') == [
        *("--tool-call-parser", "hermes"),
        *("--default-chat-template-kwargs", '{"a": "b c"}'),
    ]
    assert words("") == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hermes --tool-call-parser", "'hermes' is not a flag of vLLM"),
        ("--tool-call-parser 'hermes", "cannot be split into words: No closing quotation"),
        ("--enforce-eager --port 9", "--port is set by the gateway"),
        ("--served-model-name=mine", "--served-model-name is set by the gateway"),
        ("--max_loras 9", "--max_loras is set by the gateway"),
    ],
)
def test_what_cannot_be_added_is_refused(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        words(line)
