"""Can the caller whose request it was score the answer, and nobody else, with clear errors?"""

from __future__ import annotations

import httpx
import pytest

from gateway.access import keys
from gateway.access.keys import Grant
from gateway.ledger import feedback
from models.features import counts_of
from tests.gateway.fakes import EASY, Gateway, error


async def give(
    gateway: Gateway, request_id: str, headers: dict[str, str] | None = None, **more: object
) -> httpx.Response:
    body = {"request_id": request_id, "score": 1, "source": "thumbs", **more}
    return await gateway.client.post("/v1/feedback", json=body, headers=headers)


async def key(gateway: Gateway, name: str, *, admin: bool = False) -> dict[str, str]:
    secret, _ = await keys.create(gateway.keyring.redis, Grant(name=name, admin=admin))
    await gateway.keyring.refresh()
    return {"authorization": f"Bearer {secret}"}


async def scores(gateway: Gateway) -> list[dict[str, float]]:
    return [one.scores async for one in feedback.read_requests(gateway.services.ledger.redis, 0)]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_can_be_scored_as_soon_as_it_is_there(gateway: Gateway, stream: bool) -> None:
    """The id is the header of the response, and the ledger's entry may still be on its way."""
    answer = await gateway.ask(stream=stream)
    response = await give(gateway, answer.headers["x-request-id"], score=0.5)
    assert response.status_code == 200
    assert response.json() == {
        "request_id": answer.headers["x-request-id"], "score": 0.5, "source": "thumbs", "replaced": False,
    }  # fmt: skip
    assert await scores(gateway) == [{"thumbs": 0.5}]


async def test_a_field_that_there_is_not_is_named(gateway: Gateway) -> None:
    for name in ("query", "str"):
        refused = await give(gateway, "req_0", None, **{name: 1})
        assert (refused.status_code, error(refused)["param"]) == (400, name)


async def test_a_repeat_replaces(gateway: Gateway) -> None:
    request_id = (await gateway.ask()).headers["x-request-id"]
    for score, replaced in ((1, False), (0, True), (0, True)):
        assert (await give(gateway, request_id, score=score)).json()["replaced"] is replaced
    assert await scores(gateway) == [{"thumbs": 0.0}]


async def test_only_the_key_that_asked_and_admins_may_score(gateway: Gateway) -> None:
    mine, theirs, boss = (
        await key(gateway, "mine"), await key(gateway, "theirs"), await key(gateway, "boss", admin=True),
    )  # fmt: skip
    request_id = (await gateway.ask(headers=mine)).headers["x-request-id"]
    assert (await give(gateway, request_id, mine)).status_code == 200
    assert (await give(gateway, request_id, boss, source="audit")).status_code == 200
    refused, unknown = await give(gateway, request_id, theirs, score=0), await give(gateway, "req_0", theirs)
    assert refused.status_code == unknown.status_code == 404, "nobody learns which ids there are"
    assert error(refused)["param"] == "request_id"
    assert error(refused)["message"].replace(request_id, "req_0") == error(unknown)["message"]
    assert (await give(gateway, request_id)).status_code == 401
    assert await scores(gateway) == [{"thumbs": 1.0, "audit": 1.0}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("score", 1.01), ("score", -0.1), ("score", "1"), ("score", None), ("score", True),
        ("source", ""), ("source", "Thumbs up"), ("source", "x" * 65), ("source", "a\n"),
        ("request_id", ""), ("request_id", "req 1"), ("request_id", 7), ("request_id", "x" * 129),
        ("comment", "the answer is wrong"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(gateway: Gateway, field: str, value: object) -> None:
    response = await give(gateway, **({"request_id": "req_1"} | {field: value}))  # pyright: ignore[reportArgumentType]
    assert response.status_code == 400
    assert error(response)["param"] == field
    assert field in error(response)["message"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"score": NaN}', b"\xff"])
async def test_what_is_no_feedback_is_a_400(gateway: Gateway, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = await gateway.client.post("/v1/feedback", content=body, headers=headers)
    assert response.status_code == 400


async def test_too_many_scores_are_refused(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [(await gateway.ask()).headers["x-request-id"] for _ in range(2)]
    monkeypatch.setattr(feedback, "MAX_SOURCES_A_REQUEST", 1)
    monkeypatch.setattr(feedback, "MAX_REQUESTS_A_DAY", 1)
    assert (await give(gateway, ids[0])).status_code == 200
    several, full = await give(gateway, ids[0], source="judge"), await give(gateway, ids[1])
    assert (several.status_code, error(several)["param"]) == (409, "source")
    assert (full.status_code, full.headers["retry-after"]) == (429, "3600")


async def test_without_a_draw_nothing_is_compared(gateway: Gateway) -> None:
    request_id = (await gateway.ask()).headers["x-request-id"]
    await give(gateway, request_id)
    quality = (await gateway.client.get("/v1/savings?by=key")).json()["quality"]
    assert quality == {"by": "key", "source": None, "sources": {}, "groups": {}}


async def test_without_redis_feedback_is_a_503(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(feedback, "find_entry", down)
    response = await give(gateway, "req_1")
    assert (response.status_code, error(response)["code"]) == (503, "store_unavailable")


async def test_the_error_for_a_wrong_method_names_the_right_one(gateway: Gateway) -> None:
    response = await gateway.client.get("/v1/feedback")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_an_entry_has_what_the_profile_counted_in_the_prompt(gateway: Gateway) -> None:
    """`laconic refit` learns from these counts."""
    await gateway.ask(EASY)
    (entry,) = await gateway.entries()
    assert entry.counts == counts_of(EASY, {"what", "is", "hard"})
