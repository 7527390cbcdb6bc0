"""Whether a response is right: its answer counts, not its thinking."""

from __future__ import annotations

import pytest

from laconic_rewards.answers import is_right


@pytest.mark.parametrize(
    ("response", "marked", "right"),
    [
        ("<think>\n6 * 7\n</think>\n\nThe answer is \\boxed{42}.", True, True),
        ("6 * 7\n</think>\n\n42", True, True),  # the template opened the thinking
        ("I guess 42.\n</think>\n\nThe answer is 41.", True, False),
        ("The answer is 42.", True, False),  # it never closed its thinking
        ("The answer is 42", False, True),
        ("41 or so</think>42", False, True),
        ("", True, False),
    ],
)
def test_the_answer_after_the_thinking_counts(response, marked, right):
    assert is_right(response, "42", marked=marked) is right
