"""Are keys created, stored and revoked as they should be?"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis

from gateway.access import keys
from gateway.access.keys import Grant, KeyExistsError
from tests.conftest import RedisServer, patient


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = patient(redis_server.url)
    yield client
    await client.aclose()


async def test_a_secret_is_returned_once_and_not_stored(redis: Redis) -> None:
    secret, key = await keys.create(redis, Grant(name="team-a", requests_per_minute=5))
    assert secret.startswith("sk-laconic-")
    assert len(secret) > 50
    stored = " ".join([str(await redis.hgetall(keys.KEYS)), key.model_dump_json()])
    assert secret not in stored
    assert keys.digest(secret) in stored
    assert "sha256" not in key.public()
    assert (await keys.load(redis)).keys == (key,)


async def test_a_gateway_that_knows_fewer_limits_can_read_a_key_without_them(redis: Redis) -> None:
    """During an upgrade, old gateways read the keys that new ones write."""
    await keys.create(redis, Grant(name="team-a", requests_per_minute=5))
    (record,) = (await redis.hgetall(keys.KEYS)).values()
    assert "max_concurrency" not in str(record)
    await keys.create(redis, Grant(name="team-b", max_concurrency=3))
    assert [key.max_concurrency for key in (await keys.load(redis)).keys] == [None, 3]


async def test_only_what_has_changed_is_parsed_again(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many keys, one more must not hold up every stream of the gateway."""
    parsed: list[str] = []
    parse = keys._parse
    monkeypatch.setattr(keys, "_parse", lambda record: (parsed.append(record), parse(record))[1])
    reader = keys.Reader()
    for name in ("one", "two"):
        await keys.create(redis, Grant(name=name))
    before = await reader.load(redis)
    await keys.revoke(redis, "one")
    await keys.create(redis, Grant(name="one", admin=True))
    await keys.create(redis, Grant(name="three"))
    after = await reader.load(redis)
    assert [key.name for key in before.keys] == ["one", "two"]
    assert [(key.name, key.admin) for key in after.keys] == [("one", True), ("three", False), ("two", False)]
    assert len(parsed) == 4
    await keys.revoke(redis, "two")
    assert [key.name for key in (await reader.load(redis)).keys] == ["one", "three"]
    assert len(parsed) == 4


async def test_a_name_is_unique_until_its_key_is_revoked(redis: Redis) -> None:
    first, _ = await keys.create(redis, Grant(name="team-a"))
    with pytest.raises(KeyExistsError, match="team-a"):
        await keys.create(redis, Grant(name="team-a"))
    versions = [await keys.version(redis)]
    assert await keys.revoke(redis, "team-a")
    versions.append(await keys.version(redis))
    assert not await keys.revoke(redis, "team-a")
    second, _ = await keys.create(redis, Grant(name="team-a"))
    assert first != second
    assert await keys.version(redis) > versions[1] > versions[0] > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""}, {"name": "a b"}, {"name": "a\n"}, {"name": "x" * 65}, {"name": "-a"}, {"requests_per_minute": 0},
        {"reasoning_tokens_per_day": -1}, {"reasoning_tokens_per_minute": 1.5}, {"default_budget": "lots"},
        {"default_budget": "-1"}, {"checkpoints": ()}, {"limit": 3}, {"requests_per_minute": True},
    ],
)  # fmt: skip
def test_an_invalid_grant_is_rejected_and_names_the_field(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as rejected:
        Grant(**{"name": "a", **fields})  # pyright: ignore[reportArgumentType]
    assert rejected.value.errors()[0]["loc"][0] == next(iter(fields))
