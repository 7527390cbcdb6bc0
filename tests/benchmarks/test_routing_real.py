"""A table of real models is read, and every prompt is predicted from the other folds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import routing_real
from training.profile import readers


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_has_outcomes_in_any_form(suffix: str, tmp_path: Path) -> None:
    rows = [{"q": 'one,\n"two"', "a": True, "b": 0.25}, {"q": "three", "a": False, "b": 1}]
    file = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        file.write_text('\ufeffq,a,b\n"one,\n""two""",True,0.25\nthree,false,1\n', encoding="utf-8")
    else:
        rows[1]["a"] = {"is_correct": False}
        file.write_text("\n".join(map(json.dumps, rows)))
    prompts, right = routing_real.read(file, "q", ["a", "b"])
    assert prompts == ['one,\n"two"', "three"]
    assert right.tolist() == [[1, 0.25], [0, 1]]


def test_predictions_are_of_the_reader_that_the_other_folds_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 300)
    prompts = ["word " * int(length) for length in lengths]
    strong = (rng.random(300) < 0.9).astype(float)
    weak = (rng.random(300) < 1 / (1 + np.exp((lengths - 30) / 6))).astype(float)
    monkeypatch.setattr(routing_real, "FOLDS", 3)
    monkeypatch.setattr(readers, "PENALTIES", (0.03, 3.0))
    predicted, chosen = routing_real.crossed(prompts, np.stack([weak, strong], axis=1), seed=0)
    assert len(chosen) == 3
    assert set(chosen) <= set(readers.ORDER) - {"constant"}, "length decides"
    figures = {name: routing_real.figures(p, np.stack([weak, strong], axis=1)) for name, p in predicted.items()}
    assert figures["auto"]["APGR"] > 0.6 > figures["constant"]["APGR"]
    assert figures["auto"]["log loss"] < figures["constant"]["log loss"]
