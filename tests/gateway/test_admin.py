"""What FastAPI serves looks like everything else: one error shape, one request id, one bound on bodies."""

from __future__ import annotations

import pytest

from gateway.access import keys
from gateway.access.keys import Grant
from tests.gateway.fakes import Gateway
from tests.gateway.test_chat import error


async def admin_headers(gateway: Gateway) -> dict[str, str]:
    secret, _ = await keys.create(gateway.keyring.redis, Grant(name="operator", admin=True))
    await gateway.keyring.refresh()
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("POST", "/v1/savings", "GET"), ("PUT", "/v1/keys", "GET"), ("GET", "/v1/keys/a", "DELETE")],
)
async def test_another_method_is_a_405_that_names_the_allowed_one(
    gateway: Gateway, method: str, path: str, allow: str
) -> None:
    response = await gateway.client.request(method, path)
    assert response.status_code == 405
    assert allow in response.headers["allow"]
    assert error(response)["code"] == "method_not_allowed"


async def test_success_and_error_carry_a_request_id(gateway: Gateway) -> None:
    responses = [await gateway.client.get(f"/v1/savings{query}") for query in ("", "?by=moon", "")]
    assert [response.status_code for response in responses] == [200, 400, 200]
    ids = [response.headers["x-request-id"] for response in responses]
    assert all(request_id.startswith("req_") for request_id in ids)
    assert len(set(ids)) == 3


async def test_a_grant_is_read_no_further_than_the_largest_body(gateway: Gateway) -> None:
    headers = await admin_headers(gateway)
    response = await gateway.client.post("/v1/keys", content=b" " * (2**20 + 1), headers=headers)
    assert response.status_code == 413
    assert error(response)["code"] == "request_too_large"


async def test_without_any_key_nobody_can_create_one_over_http(gateway: Gateway) -> None:
    response = await gateway.client.post("/v1/keys", json={"name": "team-a"})
    assert response.status_code == 403
    assert "laconic keys create" in error(response)["message"]
    assert (await gateway.client.get("/v1/savings")).status_code == 200


async def test_a_bug_is_a_500_in_the_same_shape(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admin.compute_savings", lambda *_: 1 / 0)
    response = await gateway.client.get("/v1/savings")
    assert response.status_code == 500
    assert error(response)["code"] == "internal_error"
    assert "division" not in response.text
