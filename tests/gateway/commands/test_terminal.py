"""How do commands find the gateway's Redis and their time window?"""

from __future__ import annotations

import pytest

from tests.gateway.commands.running import exit_code


def test_without_a_redis_the_error_says_what_to_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("savings") == 1
    assert "is `laconic serve` running?" in capsys.readouterr().err


@pytest.mark.parametrize("since", ["24", "h", "1y", "-1h", ""])
def test_an_invalid_duration_is_rejected(since: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("savings", f"--since={since}") == 2
    assert "--since" in capsys.readouterr().err
