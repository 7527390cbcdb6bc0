"""What do the tables of `laconic savings` and `laconic replay` show?"""

from __future__ import annotations

import csv
import json
import re
import time
from pathlib import Path

import pytest

from gateway.commands.reports import drift_sentence
from gateway.ledger.drift import Drift, drift_of
from gateway.ledger.ledger import Ledger
from gateway.ledger.outcome import unreported
from tests.conftest import RedisServer
from tests.gateway.commands.running import cells_of, record_holdouts, record_three_requests, run
from tests.gateway.entries import entry


async def test_savings_show_every_checkpoint_and_the_total(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record_three_requests(redis_server, tmp_path)
    run("savings", "--redis", redis_server.url, "--price", "500000")
    printed = capsys.readouterr().out
    lines = {cells[0]: cells[1:] for cells in map(cells_of, printed.splitlines()) if cells}
    assert lines["alpha-0.4"] == ["2", "0", "0", "80", "160", "80", "50%", "40.00", "▇" * 12 + "░" * 12]
    assert lines["base"] == ["1", "0", "1", "-", "-", "-", "-", "-", ""]
    assert lines["total"] == ["3", "0", "1", "80", "160", "80", "50%", "40.00", ""]
    assert "Not in these figures: 1 of the requests, with 1,500 reasoning tokens" in " ".join(printed.split())
    assert "30 routed requests went to the reference checkpoint" in " ".join(printed.split())


async def test_savings_are_measured_with_enough_holdouts_and_drift_is_reported(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record_holdouts(redis_server, tmp_path)
    run("savings", "--redis", redis_server.url)
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"over 100 requests: [78],\d\d\d tokens saved \(95 % interval 7,\d\d\d to 8,\d\d\d\)", printed)
    assert re.search(
        r"estimate for the answered requests is 4,000: outside the interval of the same measurement over answered"
        r" requests only \([78],\d\d\d to 8,\d\d\d\), so the profile has drifted",
        printed,
    )


async def test_requests_that_another_router_never_reported_are_told_from_those_whose_callers_left(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(redis_server.url, tmp_path)
    await ledger.start()
    ledger.put(unreported(entry(time=time.time(), reference_tokens=100.0), "envoy", 1000))
    ledger.put(entry(time=time.time(), status=499, assumed=True))
    await ledger.aclose()
    run("savings", "--redis", redis_server.url)
    printed = capsys.readouterr().out
    total = cells_of(next(line for line in printed.splitlines() if "total" in line))
    assert total[1:7] == ["2", "1", "0", "1,000", "100", "-900"]
    assert "Another router never reported what became of 1 requests." in printed
    assert "For 1 requests the tokens are predicted" in printed


async def test_without_requests_a_sentence_says_so_and_csv_has_its_row(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run("savings", "--redis", redis_server.url)
    assert "No requests in this time yet." in capsys.readouterr().out
    run("savings", "--redis", redis_server.url, "--csv")
    assert len(capsys.readouterr().out.splitlines()) == 2


async def test_spent_reference_and_saved_are_of_the_same_requests(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(redis_server.url, tmp_path)
    await ledger.start()
    ledger.put(entry(time=time.time(), reasoning_tokens=30, reference_tokens=100.0))
    ledger.put(entry(time=time.time(), reasoning_tokens=500, holdout_fraction=None))
    ledger.put(entry(time=time.time(), reasoning_tokens=7, status=502))
    await ledger.aclose()
    run("savings", "--redis", redis_server.url)
    printed = capsys.readouterr().out
    total = next(line for line in printed.splitlines() if "total" in line)
    assert [cell.strip() for cell in total.strip("│").split("│")][:8] == [
        "total",
        "3",
        "1",
        "0",
        "30",
        "100",
        "70",
        "70%",
    ]
    assert "Not in these figures: 2 of the requests, with 507 reasoning tokens" in " ".join(printed.split())


async def test_requests_without_an_answer_are_counted_below_the_table(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(redis_server.url, tmp_path)
    await ledger.start()
    ledger.put(entry(time=time.time(), answered=False))
    await ledger.aclose()
    run("savings", "--redis", redis_server.url)
    assert "1 requests had no answer (cut off while thinking, or empty) and save nothing" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("drift", "sentence"),
    [
        (drift_of([1, 0, 0, 0, 0]), "Drift of the prompts shows after some fifty routed requests."),
        (drift_of([10] * 5), "No drift of the prompts is seen (distance 0.00 ± 0.19, unfamiliar 0.0% (0.0% to 7.1%))."),
        (
            drift_of([900] * 5, abstained=9),
            "No drift of the prompts is seen (distance 0.00 ± 0.02, unfamiliar 0.2% (0.1% to 0.4%)).",
        ),
        (
            drift_of((1600, 100, 100, 100, 1600), without=100),
            (
                "Drift: the prompts are more often very easy or very hard than what the profile was fitted on"
                " (distance 0.26 ± 0.02, unfamiliar 0.0% (0.0% to 0.1%))."
            ),
        ),
        (
            drift_of((0, 0, 0, 900, 900), abstained=400),
            (
                "Drift: many prompts are unlike what the profile was fitted on, and the others are harder"
                " (distance 0.60 ± 0.03, unfamiliar 18.2% (16.6% to 19.8%))."
            ),
        ),
        (
            drift_of([0] * 5, abstained=50),
            "Drift: many prompts are unlike what the profile was fitted on (unfamiliar 100.0% (92.9% to 100.0%)).",
        ),
        (drift_of([0] * 5, unreadable=5), "No request was routed by its prompt, so there is no drift to see."),
    ],
)
def test_drift_is_said_in_one_line(drift: Drift, sentence: str) -> None:
    assert drift_sentence(drift) == sentence


async def test_savings_end_with_the_drift(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record_holdouts(redis_server, tmp_path)
    run("savings", "--redis", redis_server.url)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.endswith(
        "Drift: the prompts are easier than what the profile was fitted on"
        " (distance 0.60 ± 0.11, unfamiliar 0.0% (0.0% to 2.5%))."
    )
    run("savings", "--redis", redis_server.url, "--json")
    figures = json.loads(capsys.readouterr().out)
    assert figures["drift"]["fifths"] == [0, 150, 0, 0, 0]


@pytest.mark.parametrize("columns", ["80", "60"])
async def test_a_narrow_terminal_shows_all_figures(
    redis_server: RedisServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    ledger = Ledger(redis_server.url, tmp_path)
    await ledger.start()
    ledger.put(entry(time=time.time(), reasoning_tokens=1_234_567, reference_tokens=98_765_432.0))
    await ledger.aclose()
    run("savings", "--redis", redis_server.url)
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= int(columns)
    columns_of = zip(*[line.strip("│").split("│") for line in printed.splitlines() if "│" in line], strict=True)
    joined = ["".join(cell.strip() for cell in column) for column in columns_of]
    assert any("98,765,432" in text for text in joined)


async def test_savings_can_be_printed_as_csv(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record_holdouts(redis_server, tmp_path)
    run("savings", "--redis", redis_server.url, "--by", "difficulty", "--csv")
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["difficulty"] for row in rows] == ["0.2-0.4", "total"]
    assert rows[0]["requests"] == "150"
    assert float(rows[1]["measured_low"]) < float(rows[1]["measured_saved_tokens"]) < float(rows[1]["measured_high"])


async def test_replay_shows_what_was_chosen_and_what_would_be(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record_holdouts(redis_server, tmp_path)
    run("replay", "--redis", redis_server.url, "--quality-tolerance", "0")
    lines = {cells[0]: cells[1:] for cells in map(cells_of, capsys.readouterr().out.splitlines()) if cells}
    assert lines["expected reasoning tokens"] == ["6,300", "12,000"]
    assert lines["saved against the reference"] == ["5,700 (48%)", "0 (0%)"]
    assert lines["expected success"] == ["0.940", "0.950"]
    assert lines["sent to base"] == ["0", "150"]
    assert lines["sent to alpha-0.2"] == ["150", "0"]
