"""Does `laconic keys` create, list and revoke keys?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway import cli
from gateway.access.keys import KEYS
from tests.conftest import RedisServer


def run_keys(server: RedisServer, *arguments: str) -> None:
    cli.main(["keys", *arguments, "--redis", server.url])


def test_a_key_is_created_shown_once_listed_and_revoked(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run_keys(redis_server, "list")
    assert "no keys" in capsys.readouterr().out
    limits = ("--requests-per-minute", "600", "--reasoning-tokens-per-day", "2000000", "--default-budget", "low")
    run_keys(
        redis_server,
        "create",
        "team-a",
        *limits,
        "--max-concurrency",
        "77",
        "--checkpoint",
        "alpha-0.4",
        "--checkpoint",
        "base",
    )
    printed = capsys.readouterr().out
    secret = printed.split()[0]
    assert secret.startswith("sk-laconic-")
    assert "not shown again" in printed

    run_keys(redis_server, "list")
    row = capsys.readouterr().out.splitlines()[1]
    assert secret not in row
    for value in ("team-a", secret[-4:], "600", "2,000,000", " 77 ", "low", "alpha-0.4 base"):
        assert value in row
    run_keys(redis_server, "list", "--json")
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["requests_per_minute"], listed["max_concurrency"]) == (600, 77)
    assert "sha256" not in listed

    run_keys(redis_server, "revoke", "team-a")
    assert redis_server.client.hlen(KEYS) == 0
    run_keys(redis_server, "list")
    assert "every request gets a 401" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        run_keys(redis_server, "revoke", "team-a")
    assert exit_.value.code == 1
    assert "team-a" in capsys.readouterr().err


def test_a_key_has_a_team_and_limits_in_money(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    money = ("--money-per-day", "2.50", "--money-per-month", "40")
    run_keys(redis_server, "create", "app-1", "--team", "research", *money)
    assert "needs a gateway with --prices" in capsys.readouterr().out
    run_keys(redis_server, "list", "--json")
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["team"], listed["money_per_day"], listed["money_per_month"]) == ("research", 2.5, 40)
    run_keys(redis_server, "list")
    assert [cell for cell in capsys.readouterr().out.split() if cell in ("research", "2.5", "2.50", "40", "40.0")] == [
        "research",
        "2.5",
        "40",
    ]


def test_an_existing_name_is_rejected(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    run_keys(redis_server, "create", "team-a", "--json")
    assert json.loads(capsys.readouterr().out)["name"] == "team-a"
    with pytest.raises(SystemExit) as exit_:
        run_keys(redis_server, "create", "team-a")
    assert exit_.value.code == 1
    assert "revoke it first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("create", "a b"), "name"),
        (("create", "a", "--requests-per-minute", "0"), "requests_per_minute"),
        (("create", "a", "--max-concurrency", "0"), "max_concurrency"),
        (("create", "a", "--money-per-day", "0"), "money_per_day"),
        (("create", "a", "--money-per-month", "nan"), "money_per_month"),
        (("create", "a", "--money-per-month", "0.0000001"), "money_per_month"),
        (("create", "a", "--team", "a b"), "team"),
        (("create", "a", "--default-budget", "-1"), "default_budget"),
        (("create", "a", "--default-budget", "lots"), "default_budget"),
        (("create", "a", "--checkpoint", "alpha-9"), "checkpoints"),
        (("create", "a", "--family", "/nowhere"), "family"),
        (("create",), "name"),
        (("mend", "a"), "mend"),
    ],
)
def test_invalid_arguments_are_rejected_in_one_line_that_names_the_field(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], field: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_keys(redis_server, *arguments)
    assert exit_.value.code == 2
    assert field in capsys.readouterr().err.splitlines()[-1]
    assert redis_server.client.exists(KEYS) == 0


def test_without_a_redis_the_error_says_what_to_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["keys", "list", "--state-dir", str(tmp_path)])
    assert exit_.value.code == 1
    assert "is `laconic serve` running?" in capsys.readouterr().err
