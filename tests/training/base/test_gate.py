from dataclasses import replace

import pytest

from training.base.gate import Figures, measure, verdict
from training.rollouts.params import SamplingParams

FIT_AT_1 = {
    "easy": Figures(0.985, 0.98, 3.1, 50),
    "medium": Figures(0.93, 0.85, 3.2, 90),
    "hard": Figures(0.82, 0.58, 3.4, 150),
}
FIT_AT_0 = {
    "easy": Figures(1.0, 1.0, 3.1, 50),
    "medium": Figures(0.97, 0.93, 3.2, 90),
    "hard": Figures(0.93, 0.75, 3.4, 150),
}


def test_an_overthinker_whose_checking_pays_on_hard_questions_is_fit():
    assert verdict(FIT_AT_1, FIT_AT_0) == []


@pytest.mark.parametrize(
    ("difficulty", "change", "named"),
    [
        ("easy", {"accuracy": 0.96}, "easy accuracy at temperature 1"),
        ("easy", {"cut_accuracy": 0.9}, "easy accuracy lost without later episodes"),
        ("medium", {"accuracy": 0.89}, "medium accuracy at temperature 1"),
        ("hard", {"accuracy": 0.95}, "hard accuracy at temperature 1"),
        ("hard", {"cut_accuracy": 0.7}, "hard accuracy after the first episode"),
        ("hard", {"accuracy": 0.76, "cut_accuracy": 0.6}, "hard accuracy lost without later episodes"),
        ("medium", {"episodes": 1.2}, "medium episodes"),
    ],
)
def test_each_figure_out_of_range_is_named(difficulty, change, named):
    figures = {**FIT_AT_1, difficulty: replace(FIT_AT_1[difficulty], **change)}
    assert any(line.startswith(named) for line in verdict(figures, FIT_AT_0))


def test_figures_of_greedy_decoding_are_checked_too():
    weak = {**FIT_AT_0, "easy": replace(FIT_AT_0["easy"], accuracy=0.9)}
    assert verdict(FIT_AT_1, weak) == ["easy accuracy at temperature 0 is 0.900, not in [0.97, 1]"]


def test_an_untrained_model_is_measured_and_is_not_fit(model, tokenizer):
    figures = measure(model, tokenizer, SamplingParams(12, 1.0), count=4, seed=0)
    assert set(figures) == {"easy", "medium", "hard"}
    assert verdict(figures, figures)
