"""Who is let in, and does the gateway's copy of the keys survive an outage of Redis?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from starlette.datastructures import Headers

from gateway import store
from gateway.access import keyring, keys
from gateway.access.keyring import ANONYMOUS, Keyring
from gateway.access.keys import Grant
from gateway.errors import ApiError
from tests.conftest import RedisServer, patient


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = patient(redis_server.url)
    yield client
    await client.aclose()


def bearer(secret: str) -> Headers:
    return Headers({"authorization": f"Bearer {secret}"})


async def test_everyone_is_let_in_until_there_is_a_key_and_then_only_its_owner(
    redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    ring = Keyring(redis_server.url, tmp_path)
    await ring.start()
    assert ring.authenticate(Headers()) is ANONYMOUS
    secret, key = await keys.create(redis, Grant(name="team-a"))
    await ring.refresh()
    assert ring.authenticate(bearer(secret)) == key
    invalid = (Headers(), bearer(secret[:-1]), bearer(""), Headers({"authorization": secret}), bearer(key.sha256))
    for headers in (*invalid, Headers(raw=[(b"authorization", f"Bearer {secret}".encode())] * 2)):
        with pytest.raises(ApiError) as refused:
            ring.authenticate(headers)
        assert refused.value.status == 401
        assert secret not in refused.value.message
    assert ring.authenticate(Headers({"x-api-key": secret})) == key
    assert ring.authenticate(Headers({"x-api-key": secret, "authorization": f"Bearer {secret}"})) == key
    for headers in (
        Headers({"x-api-key": secret, "authorization": "Bearer other"}),
        Headers(raw=[(b"x-api-key", secret.encode())] * 2),
        Headers({"x-api-key": ""}),
    ):
        with pytest.raises(ApiError):
            ring.authenticate(headers)
    await keys.revoke(redis, "team-a")
    await ring.refresh()
    with pytest.raises(ApiError):
        ring.authenticate(bearer(secret))
    with pytest.raises(ApiError):  # after the first key, callers need one even if all are revoked
        ring.authenticate(Headers())
    await ring.aclose()


async def test_admin_access_needs_an_admin_key(redis: Redis, redis_server: RedisServer, tmp_path: Path) -> None:
    mine, _ = await keys.create(redis, Grant(name="me"))
    theirs, _ = await keys.create(redis, Grant(name="boss", admin=True))
    ring = Keyring(redis_server.url, tmp_path)
    await ring.read()
    assert ring.authenticate_admin(bearer(theirs)).name == "boss"
    with pytest.raises(ApiError) as refused:
        ring.authenticate_admin(bearer(mine))
    assert refused.value.status == 403
    await ring.aclose()


async def test_an_outage_of_redis_does_not_change_who_has_access(mortal_redis: RedisServer, tmp_path: Path) -> None:
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
    with pytest.raises(
        ApiError
    ) as unknown:  # this gateway has never read the keys, so it does not know whether there are any
        elsewhere.authenticate(bearer(secret))
    assert unknown.value.status == 503

    mortal_redis.start()
    mortal_redis.client.flushall()
    await restarted.read()
    with pytest.raises(ApiError):  # a Redis that lost its data gives nobody access
        restarted.authenticate(Headers())
    assert restarted.authenticate(bearer(secret)) == key
    for ring_ in (ring, restarted, elsewhere):
        await ring_.aclose()
    await redis.aclose()


async def test_a_key_that_cannot_be_read_gives_nobody_access(
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


async def test_a_key_for_checkpoints_that_the_family_does_not_have_is_logged_once(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await keys.create(redis, Grant(name="team-a", checkpoints=("gone", "base")))
    ring = Keyring(redis_server.url, tmp_path, {"base"})
    await ring.start()
    await keys.create(redis, Grant(name="team-b", checkpoints=("base",)))
    await ring.refresh()
    assert [record.getMessage() for record in caplog.records] == [
        "key team-a may use gone, which the family does not have"
    ]
    await ring.aclose()
