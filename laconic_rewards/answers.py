"""Is a response right? Its answer counts, not its thinking."""

from __future__ import annotations

from training.tasks.verify import is_correct

THINK_END = "</think>"


def is_right(response: str, gold: str, *, marked: bool = True) -> bool:
    """Whether the answer of a response equals the gold answer.

    Args:
        response: thinking and answer, or the answer alone.
        gold: the gold answer.
        marked: the response closes its thinking with `</think>`. If it does not, it is wrong.
    """
    _, mark, answer = response.partition(THINK_END)
    if marked:
        return bool(mark) and is_correct(answer, gold)
    return is_correct(answer if mark else response, gold)
