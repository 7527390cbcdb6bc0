"""The card says what each reader would have done and what it costs, and which one was taken."""

from __future__ import annotations

from training.profile import compared, readers


def test_every_reader_has_a_line_and_the_chosen_one_is_bold() -> None:
    scores = {"log_loss": 0.61234, "auc": 0.7, "microseconds": 1234.0}
    text = compared.section({"name": "text", "compared": dict.fromkeys(readers.ORDER, scores)})
    lines = [line for line in text.splitlines() if line.startswith("| ") and "0.6123 | 0.700 | 1,234 |" in line]
    assert [line.split("|")[1].strip() for line in lines] == [
        f"**{name}**" if name == "text" else name for name in readers.ORDER
    ]
    assert all(line.split("|")[2].strip() for line in lines), "each says what it sees"


def test_a_profile_without_a_reader_has_no_section() -> None:
    assert compared.section(None) == ""


def test_figures_without_times_are_shown() -> None:
    assert "| 0.5000 | 0.500 |  |" in compared.section(
        {"name": "length", "compared": {"length": {"log_loss": 0.5, "auc": 0.5}}}
    )
