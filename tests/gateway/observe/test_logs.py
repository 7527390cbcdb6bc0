"""What do log lines look like?"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from gateway.config import load
from gateway.observe import logs


@pytest.fixture(autouse=True)
def _restore_root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


def test_a_json_line_has_its_fields_and_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(load(["--log-format", "json"]))
    token = logs.request_id.set("req_1")
    logging.getLogger("laconic").info("it's %s", 'so\n"so"', extra={"fields": {"status": 200}})
    logs.request_id.reset(token)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("laconic").exception("it broke")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info", "logger": "laconic", "message": 'it\'s so\n"so"', "request_id": "req_1", "status": 200,
    }  # fmt: skip
    assert "request_id" not in second
    assert "ValueError: why" in second["exception"]


def test_a_text_line_ends_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(load(["--log-level", "warning"]))
    logging.getLogger("laconic").info("not this")
    logging.getLogger("laconic").warning("request finished", extra={"fields": {"status": 200, "key": "team-a"}})
    assert capsys.readouterr().err.endswith(" WARNING request finished status=200 key=team-a\n")
