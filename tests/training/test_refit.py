"""Does a refit learn what the ledger shows, and replace a profile only by one that is better?"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from gateway.ledger import entry as entries
from models import family as families
from models import profile as profiles
from models.floor import Certified, Floor
from tests.gateway.entries import entry
from tests.gateway.fakes import build_family
from training import refit


def write(
    directory: Path,
    file: Path,
    *,
    truth: str,
    count: int = 900,
    scored: range = range(900),
    finish_reason: str = "stop",
    budget: int | None = None,
    runaway: float = 0.0,
    answered: bool = True,
) -> Path:
    """Entries of routed requests and holdouts, with scores.

    By the profile, every checkpoint solves a prompt with an unknown word, and only the base one without. `truth` says
    what decides: that (`as predicted`), or the length of the number (`numbers`), which the profile does not look at. A
    share `runaway` of the requests is still thinking after 8,000 tokens.
    """
    rng = random.Random(0)
    profile = profiles.load(directory / families.load(directory).profile)
    lines: list[str] = []
    for number in range(count):
        word, digits = rng.choice(("easy", "hard")), rng.choice((2, 8))
        prediction = profile.predict(f"What is {word} 1 + {rng.randrange(10 ** (digits - 1), 10**digits)}?")
        forecasts = prediction.forecasts(budget)
        holdout = rng.random() < 0.3
        checkpoint = "base" if holdout else "alpha-0.4"
        success = forecasts[checkpoint].success if truth == "as predicted" else (0.95 if digits == 2 else 0.1)
        runs_away = runaway > 0 and rng.random() < runaway
        tokens = 8000 if runs_away else round(forecasts[checkpoint].unlimited_tokens * rng.lognormvariate(0, 0.2))
        one = entry(
            time=1.8e9 + number, checkpoint=checkpoint, choice="alpha-0.4", decision="holdout" if holdout else "routed",
            forecasts=forecasts, counts=prediction.counts, easiness=prediction.easiness,
            reasoning_tokens=tokens if budget is None else min(tokens, budget), budget=budget,
            finish_reason="length" if runs_away else finish_reason, answered=answered and not runs_away,
        )  # fmt: skip
        scores = (
            {"verifier": float(rng.random() < success and not runs_away)}
            if rng.random() < 0.9 and number in scored
            else {}
        )
        lines.append(json.dumps({**json.loads(entries.dump(one)), "scores": scores}))
    file.write_text("\n".join(lines) + "\n")
    return file


def run(directory: Path, file: Path, *arguments: str) -> int:
    try:
        refit.main([str(directory), f"--entries={file}", *arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A family to change."""
    directory = tmp_path / "abacus"
    build_family(directory, escalations=True)
    return directory


def test_a_better_profile_replaces_the_one_of_now(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = families.load(own)
    file = write(own, tmp_path / "entries.jsonl", truth="numbers")
    assert run(own, file, "--replace") == 0
    assert "The new profile is better (forest" in capsys.readouterr().out
    after = families.load(own)
    assert after.profile != before.profile
    assert (own / before.profile).exists(), "a gateway that reads it now still finds it"
    assert set(after.files) == {after.profile}
    profile = profiles.load(own / after.profile)
    short, long = (
        profile.predict(f"What is hard 1 + {n}?").forecasts(None)["alpha-0.4"].success for n in (12, 12345678)
    )
    assert short > 0.8
    assert long < 0.3
    assert profile.ranks


def test_without_replace_nothing_is_written(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()}
    assert run(own, write(own, tmp_path / "entries.jsonl", truth="numbers")) == 0
    assert "tokens of what it would choose" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("scored", [range(500), range(400, 900)], ids=["earlier", "later"])
def test_entries_without_scores_may_come_first_or_last(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scored: range
) -> None:
    assert run(own, write(own, tmp_path / "entries.jsonl", truth="numbers", scored=scored)) == 0
    written = capsys.readouterr().out
    (all_of_them,) = re.findall(r"(\d+) with a score from verifier", written)
    (compared,) = re.findall(r"on (\d+) later scored entries", written)
    assert int(compared) == int(all_of_them) - int(int(all_of_them) * refit.TRAINING_SHARE)


def test_scored_entries_are_kept_though_most_later_ones_have_no_score(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refit, "MOST_ROWS", 250)
    file = write(own, tmp_path / "entries.jsonl", truth="numbers", scored=range(0, 900, 3))
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[::-1]) + "\n")  # the order of the file does not matter
    assert run(own, file) == 0
    assert "500 entries can be used, 250 with a score from verifier" in capsys.readouterr().out


def test_requests_that_run_away_count_as_wrong_and_long(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without them, only the survivors would say how good and how short the levels are."""
    file = write(own, tmp_path / "entries.jsonl", truth="as predicted", runaway=0.3)
    assert run(own, file, "--replace") == 0
    assert "The new profile is better" in capsys.readouterr().out
    profile = profiles.load(own / families.load(own).profile)
    choices = profile.predict("What is easy 1 + 12?").choices
    for one in (choices["base"], choices["alpha-0.4"]):
        assert 0.6 < one.p_correct < 0.85, "0.98 before, and 0.69 in truth"
        assert one.p_within(4000) == pytest.approx(0.7, abs=0.07)
        assert one.expected_tokens() > 0.2 * 8000


@pytest.mark.parametrize(("finish_reason", "answered"), [("abort", True), ("", False)], ids=["it says so", "nothing"])
def test_answers_whose_engine_gave_up_are_not_used(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], finish_reason: str, answered: bool
) -> None:
    file = tmp_path / "entries.jsonl"
    assert run(own, write(own, file, truth="numbers", finish_reason=finish_reason, answered=answered)) == 2
    assert "0 entries can be used" in capsys.readouterr().out


def test_answers_that_a_budget_ended_are_too_little_to_fit_on(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(own, write(own, tmp_path / "entries.jsonl", truth="numbers", budget=5)) == 2
    assert re.search(r"0 of the earlier scored entries thought .*too few to fit on; 50 are", capsys.readouterr().err)


def test_a_profile_that_is_right_stays(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (own / families.MANIFEST).read_bytes()
    file = write(own, tmp_path / "entries.jsonl", truth="as predicted")
    assert run(own, file, "--replace") == 1
    assert "The profile stays as it is." in capsys.readouterr().out
    assert (own / families.MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    "certified", [Certified(tolerance=0.01, kept=0.99, low=0.96, tokens=0.4), None], ids=["certified", "tested only"]
)
def test_a_certified_floor_is_not_lost(
    own: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    certified: Certified | None,
) -> None:
    """It is certified for the profile that has it, and a gateway with a floor could not use another one."""
    file = write(own, tmp_path / "entries.jsonl", truth="numbers")
    floor = Floor(floor=0.95, confidence=0.95, prompts=900, alone=certified, escalating=None, needed=None)
    stored = profiles.read(own / families.load(own).profile).model_copy(update={"floors": (floor,)})
    monkeypatch.setattr(profiles, "read", lambda _: stored)
    assert run(own, file, "--replace") == (1 if certified else 0)
    assert ("quality floors are certified for itself only" in capsys.readouterr().out) == bool(certified)


def test_entries_that_another_profile_predicted_are_not_used(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(own, tmp_path / "entries.jsonl", truth="numbers")
    assert run(own, file, "--replace") == 0
    assert run(own, file, "--replace") == 2
    assert "0 scored entries are too few" in capsys.readouterr().err


def test_entries_without_counts_are_not_used(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "entries.jsonl"
    file.write_text(json.dumps({**json.loads(entries.dump(entry())), "scores": {"thumbs": 1.0}}) + "\n")
    assert run(own, file) == 2
    assert "0 entries can be used, 0 with a score from thumbs; 1 cannot" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["{", "[]", '{"time": "now"}'])
def test_a_file_that_is_no_export_is_refused(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    file = tmp_path / "entries.jsonl"
    file.write_text(line)
    assert run(own, file) == 2
    assert f"{file}: line 1" in capsys.readouterr().err
