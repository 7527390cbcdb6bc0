"""What is read from an engine's list of models, whatever it is?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines.listing import served_models
from tests.gateway.engines.test_verdict import json_values


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"data": [{"id": "a"}, {"id": "b"}]}', {"a", "b"}),
        (b'{"data": []}', set()),
        (b'{"data": ["a", {"id": ["b"]}, {"id": {"c": 1}}, {"id": 5}, {"id": null}, {}, 7, {"id": "d"}]}', {"d"}),
        (b'{"data": {"id": "a"}}', None),
        (b'{"data": null}', None),
        (b'[{"id": "a"}]', None),
        (b'{"models": []}', None),
        (b"", None),
        (b"<html>", None),
        (b"\xff\xfe\xfd", None),
        (b'{"data":' + b"[" * 200_000, None),
        (b'{"data":' + b"[" * 900 + b"]" * 900 + b"}", set()),
        (b'{"data": [{"id": ' + b"9" * 10_000 + b"}]}", None),
        (b'{"data": [{"id": "a", "x": NaN}]}', {"a"}),
    ],
)
def test_ids_are_read_and_everything_else_is_skipped(body: bytes, names: set[str] | None) -> None:
    found = served_models(body)
    if names is None or b"9999" in body:
        assert not found
    else:
        assert found is not None
        assert found.keys() == names


@given(json_values())
def test_any_json_is_a_list_of_names_or_none(value: Any) -> None:
    for listed in (value, {"data": value}, {"data": [value]}, {"data": [{"id": value}]}):
        found = served_models(json.dumps(listed).encode())
        assert found is None or all(isinstance(name, str) for name in found)


@given(st.binary())
def test_any_bytes_are_a_list_of_names_or_none(body: bytes) -> None:
    found = served_models(body)
    assert found is None or all(isinstance(name, str) for name in found)


def test_the_context_is_read_where_it_is_told() -> None:
    told = [("a", 4096), ("b", "4096"), ("c", -1), ("d", 2**40), ("e", None)]
    body = json.dumps({"data": [{"id": name, "max_model_len": size} for name, size in told]})
    assert served_models(body.encode()) == {"a": 4096, "b": None, "c": None, "d": None, "e": None}
