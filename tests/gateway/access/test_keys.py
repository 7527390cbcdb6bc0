from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis
from starlette.datastructures import Headers

from gateway import store
from gateway.access import keyring, keys
from gateway.access.keyring import ANONYMOUS, Keyring
from gateway.access.keys import Grant, KeyExistsError
from gateway.errors import ApiError
from tests.conftest import RedisServer


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = store.connect(redis_server.url)
    yield client
    await client.aclose()


def bearer(secret: str) -> Headers:
    return Headers({"authorization": f"Bearer {secret}"})


async def test_a_secret_is_returned_once_and_stored_nowhere(redis: Redis) -> None:
    secret, key = await keys.create(redis, Grant(name="team-a", requests_per_minute=5))
    assert secret.startswith("sk-laconic-")
    assert len(secret) > 50
    stored = " ".join([str(await redis.hgetall(keys.KEYS)), key.model_dump_json()])
    assert secret not in stored
    assert keys.digest(secret) in stored
    assert "sha256" not in key.public()
    assert (await keys.load(redis)).keys == (key,)


async def test_a_name_is_given_once_until_it_is_revoked(redis: Redis) -> None:
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
    "wrong",
    [
        {"name": ""}, {"name": "a b"}, {"name": "a\n"}, {"name": "x" * 65}, {"name": "-a"}, {"requests_per_minute": 0},
        {"reasoning_tokens_per_day": -1}, {"reasoning_tokens_per_minute": 1.5}, {"default_budget": "lots"},
        {"default_budget": "-1"}, {"checkpoints": ()}, {"limit": 3}, {"requests_per_minute": True},
    ],
)  # fmt: skip
def test_a_grant_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as refused:
        Grant(**{"name": "a", **wrong})  # pyright: ignore[reportArgumentType]
    assert refused.value.errors()[0]["loc"][0] == next(iter(wrong))


async def test_without_keys_everybody_is_let_in_and_with_one_only_who_has_it(
    redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    ring = Keyring(redis_server.url, tmp_path)
    await ring.start()
    assert ring.authenticate(Headers()) is ANONYMOUS
    secret, key = await keys.create(redis, Grant(name="team-a"))
    await ring.refresh()
    assert ring.authenticate(bearer(secret)) == key
    wrong = (Headers(), bearer(secret[:-1]), bearer(""), Headers({"authorization": secret}), bearer(key.sha256))
    for headers in (*wrong, Headers(raw=[(b"authorization", f"Bearer {secret}".encode())] * 2)):
        with pytest.raises(ApiError) as refused:
            ring.authenticate(headers)
        assert refused.value.status == 401
        assert secret not in refused.value.message
    await keys.revoke(redis, "team-a")
    await ring.refresh()
    with pytest.raises(ApiError):
        ring.authenticate(bearer(secret))
    with pytest.raises(ApiError):  # once there has been a key, the door does not open by itself
        ring.authenticate(Headers())
    await ring.aclose()


async def test_an_admins_key_is_another_matter(redis: Redis, redis_server: RedisServer, tmp_path: Path) -> None:
    mine, _ = await keys.create(redis, Grant(name="me"))
    theirs, _ = await keys.create(redis, Grant(name="boss", admin=True))
    ring = Keyring(redis_server.url, tmp_path)
    await ring.read()
    assert ring.authenticate_admin(bearer(theirs)).name == "boss"
    with pytest.raises(ApiError) as refused:
        ring.authenticate_admin(bearer(mine))
    assert refused.value.status == 403
    await ring.aclose()


async def test_an_outage_neither_opens_nor_closes_the_door(mortal_redis: RedisServer, tmp_path: Path) -> None:
    mortal_redis.start()
    redis = store.connect(mortal_redis.url)
    secret, key = await keys.create(redis, Grant(name="team-a"))
    ring = Keyring(mortal_redis.url, tmp_path)
    await ring.read()
    mortal_redis.kill()
    await ring.read()
    assert ring.authenticate(bearer(secret)) == key

    restarted = Keyring(mortal_redis.url, tmp_path)
    await restarted.read()
    assert restarted.authenticate(bearer(secret)) == key
    with pytest.raises(ApiError) as refused:
        restarted.authenticate(Headers())
    assert refused.value.status == 401
    assert (tmp_path / keyring.COPY).stat().st_mode & 0o777 == 0o600
    assert secret not in (tmp_path / keyring.COPY).read_text()

    elsewhere = Keyring(mortal_redis.url, tmp_path / "new")
    await elsewhere.read()
    with pytest.raises(ApiError) as unknown:  # nothing is known of the keys there, not even that there are none
        elsewhere.authenticate(bearer(secret))
    assert unknown.value.status == 503

    mortal_redis.start()
    mortal_redis.client.flushall()
    await restarted.read()
    with pytest.raises(ApiError):  # nor does an emptied Redis open it
        restarted.authenticate(Headers())
    assert restarted.authenticate(bearer(secret)) == key
    for ring_ in (ring, restarted, elsewhere):
        await ring_.aclose()
    await redis.aclose()


async def test_a_record_that_cannot_be_read_admits_nobody(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret, _ = await keys.create(redis, Grant(name="team-a"))
    record = str(await redis.hget(keys.KEYS, "team-a")).replace('"admin":false', '"admin":false,"from":"tomorrow"')
    await redis.hset(keys.KEYS, "team-a", record)
    ring = Keyring(redis_server.url, tmp_path)
    await ring.read()
    with pytest.raises(ApiError):
        ring.authenticate(bearer(secret))
    assert keys.digest(secret) not in caplog.text
    await ring.aclose()
