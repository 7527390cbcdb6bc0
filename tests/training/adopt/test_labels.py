import pytest

from training.adopt import labels


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("The answer is 42.", "42", True),
        ("So it is \\boxed{1,234}", "1234", True),
        ("6 times 7 makes 42", "42", True),
        ("That is $18 in all.", "18", True),
        ("First 6, then 7, so 43.", "42", False),
        ("", "42", False),
        ("The answer is (B).", "B", True),
        ("The answer is **C**", "(C)", True),
        ("B) because it fits", "B", True),
        ("A bird sings", "B", False),
        ('```json\n{"b": [1, 2], "a": 1}\n```', '{"a": 1, "b": [1, 2]}', True),
        ('{"a": 2}', '{"a": 1}', False),
        ("Paris.", "paris", True),
        ("The interval is [0, 1].", "[0, 1]", True),
        ("[0, 2]", "[0, 1]", False),
        ("It takes 3 cm.", "3 m", False),
        ("It costs 5 or 6 dollars.", "6", False),
        ("That is 50%.", "50\\%", True),
        ("The winner is Evelyn.", "\\text{Evelyn}", True),
        ("5 million", "5000000", True),
        ("London", "Paris", False),
    ],
)
def test_an_answer_is_compared_with_the_gold_answer(text: str, gold: str, right: bool):
    assert labels.is_right(text, gold) is right


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["The answer is 42.", "so 42", "The answer is 41."], "42"),
        (["The answer is 1/2.", "The answer is 0.5."], "1/2"),
        (["The answer is 1.", "The answer is 2.", "The answer is 3."], None),
        (["", ""], None),
        (["The answer is 5."], "5"),
    ],
)
def test_the_majority_is_of_equal_answers_in_any_notation(texts: list[str], expected: str | None):
    assert labels.majority(texts) == expected


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("The answer is 42.", "42"),
        ("Option B, I think", "B"),
        ("there are 3, no, 4", "4"),
        ('{"a": 1}', '{"a": 1}'),
        ("  Paris, of course! ", "paris of course"),
        ("", ""),
    ],
)
def test_what_an_answer_comes_to(text: str, stated: str):
    assert labels.stated_answer(text) == stated
