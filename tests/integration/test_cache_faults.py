"""Cancelled, silent, lost and emptied connections: no caller gets the answer of another one."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import redis
import uvloop

from qts_data.cache import MISSING, Entry, RedisCache
from qts_data.cache.wire import pack
from qts_data.contracts import CacheConfig
from qts_data.errors import CacheError, CacheTimeout, CacheUnavailable, ConfigurationError
from tests.fixtures.cache_rows import patient
from tests.fixtures.redis_process import RedisProcess
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LONG = 600_000
PATIENCE = 1.0
"""Seconds for an answer: longer than a busy machine takes, and short enough for a test to wait."""


def made(server: RedisProcess, **values: Any) -> RedisCache:
    return RedisCache(patient(url=server.url, **{"socket_timeout_seconds": PATIENCE} | values))


@pytest_asyncio.fixture
async def cache(own_redis: RedisProcess) -> AsyncIterator[RedisCache]:
    found = made(own_redis)
    yield found
    await found.close()


async def fill(cache: RedisCache, count: int) -> None:
    for n in range(count):
        await cache.set(f"k{n}", {"n": str(n)}, ttl_ms=LONG)


async def test_hundreds_of_reads_of_one_turn_travel_as_one_write(cache: RedisCache, own_redis: RedisProcess) -> None:
    await fill(cache, 10)
    found = await asyncio.gather(*(cache.get(f"k{n % 10}") for n in range(500)))
    assert found == [{"n": str(n % 10)} for n in range(500)]
    with redis.Redis.from_url(own_redis.url, legacy_responses=False) as client:
        before = client.info("stats")["total_reads_processed"]
        await asyncio.gather(*(cache.get("k1") for _ in range(200)))
        after = client.info("stats")["total_reads_processed"]
    # This question is one of them. 200 reads come in a handful of packets.
    assert after - before <= 6


async def test_cancelled_readers_do_not_shift_the_answers_of_others(cache: RedisCache) -> None:
    await fill(cache, 50)
    for turn in range(20):
        tasks = [asyncio.ensure_future(cache.get(f"k{n}")) for n in range(50)]
        await asyncio.sleep(0)
        if turn % 2:
            await asyncio.sleep(0)
        for n in range(0, 50, 3):
            tasks[n].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for n, item in enumerate(found):
            assert isinstance(item, asyncio.CancelledError) if n % 3 == 0 else item == {"n": str(n)}


async def test_answer_that_comes_too_late_is_dropped(cache: RedisCache, own_redis: RedisProcess) -> None:
    await fill(cache, 2)
    own_redis.pause()
    try:
        with pytest.raises(CacheTimeout):
            await cache.get("k0")
    finally:
        own_redis.resume()
    for _ in range(20):
        assert await cache.get("k1") == {"n": "1"}


async def test_calls_on_one_lost_connection_share_one_incident(cache: RedisCache, own_redis: RedisProcess) -> None:
    await fill(cache, 1)
    own_redis.pause()
    try:
        found = await asyncio.gather(*(cache.get("k0") for _ in range(50)), return_exceptions=True)
    finally:
        own_redis.resume()
    errors = [item for item in found if isinstance(item, CacheError)]
    assert len(errors) == 50
    assert len({id(error.incident) for error in errors}) == 1
    assert len({id(error) for error in errors}) == 50


async def test_call_to_a_silent_server_raises_within_the_timeout(own_redis: RedisProcess) -> None:
    cache = made(own_redis, socket_timeout_seconds=0.1, connect_timeout_seconds=600)
    own_redis.pause()
    try:
        for _ in range(3):
            # With a separate timeout for connecting it would take ten minutes.
            async with asyncio.timeout(60):
                with pytest.raises(CacheTimeout):
                    await cache.get("k")
    finally:
        own_redis.resume()
    await cache.close()


async def test_server_silent_after_the_handshake_times_out_as_usual(own_redis: RedisProcess) -> None:
    """The long connection timeout does not apply to a call on a connection that is already made."""
    cache = made(own_redis, connect_timeout_seconds=600)
    await cache.get("k")
    own_redis.pause()
    try:
        async with asyncio.timeout(60):
            with pytest.raises(CacheTimeout):
                await cache.get("k")
    finally:
        own_redis.resume()
    await cache.close()


async def test_a_loop_that_is_late_is_not_taken_for_a_silent_server(own_redis: RedisProcess) -> None:
    cache = made(own_redis)
    await fill(cache, 10)
    for turns in (1, 2):
        # The loop is blocked before the questions are sent, and after.
        tasks = [asyncio.ensure_future(cache.get(f"k{n % 10}")) for n in range(500)]
        for _ in range(turns):
            await asyncio.sleep(0)
        time.sleep(1.5 * PATIENCE)  # noqa: ASYNC251 - user code that blocks the loop
        assert await asyncio.gather(*tasks) == [{"n": str(n % 10)} for n in range(500)]
    await cache.close()


def test_the_connection_works_on_uvloop_too(own_redis: RedisProcess) -> None:
    async def work() -> list[Any]:
        cache = made(own_redis)
        await fill(cache, 10)
        found = await asyncio.gather(*(cache.get(f"k{n % 10}") for n in range(100)))
        own_redis.pause()
        with pytest.raises(CacheTimeout):
            await cache.get("k0")
        own_redis.resume()
        await cache.close()
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(work()) == [{"n": str(n % 10)} for n in range(100)]


async def test_a_cut_connection_is_made_again_by_the_next_call(cache: RedisCache, own_redis: RedisProcess) -> None:
    await fill(cache, 1)
    link = await cache.link("k0")
    own_redis.cut()
    await eventually(lambda: not link.connected)
    assert await cache.get("k0") == {"n": "0"}


async def test_killed_server_is_empty_and_useful_after_its_restart(cache: RedisCache, own_redis: RedisProcess) -> None:
    """Calls to a killed server raise `CacheUnavailable`. After its restart the cache misses and then works."""
    await fill(cache, 1)
    own_redis.kill()
    with pytest.raises(CacheUnavailable):
        await cache.get("k0")
    assert not (await cache.health_check()).healthy
    own_redis.start()
    assert await cache.get("k0") is MISSING
    # The scripts are gone with the server.
    await fill(cache, 1)
    assert await cache.get("k0") == {"n": "0"}


async def test_scripts_that_a_running_server_forgot_are_sent_again(cache: RedisCache, own_redis: RedisProcess) -> None:
    await fill(cache, 1)
    with redis.Redis.from_url(own_redis.url, legacy_responses=False) as client:
        client.script_flush()
    assert await cache.set("k0", {"n": "again"}, ttl_ms=LONG)
    assert await cache.get("k0") == {"n": "again"}


async def test_write_run_late_by_a_paused_server_does_not_live_on(cache: RedisCache, own_redis: RedisProcess) -> None:
    """A write that timed out carries its end. The server finds it expired when it runs it later."""
    await fill(cache, 1)
    own_redis.pause()
    with pytest.raises(CacheTimeout):
        await cache.set("late", {"a": "1"}, ttl_ms=round(PATIENCE * 900))
    own_redis.resume()
    await cache.get("k0")
    with redis.Redis.from_url(own_redis.url, legacy_responses=False) as client:
        assert not client.exists("late")


async def test_foreign_value_is_a_miss_and_is_replaced(cache: RedisCache, own_redis: RedisProcess) -> None:
    with redis.Redis.from_url(own_redis.url, legacy_responses=False) as client:
        client.set("text", "no hash")
        client.hset("hash", mapping={"a": "1"})
        client.hset("bytes", mapping={"a": b"\xff\xfe", "_exp": "soon", "_at": "1", "_ver": "0"})
        client.sadd("book:{S}", "no hash")
    assert await cache.get_many(["text", "hash", "bytes"]) == [MISSING] * 3
    assert await cache.get_book("book:{S}:bid", "book:{S}:ask", "book:{S}", levels=1) is MISSING
    for key in ("text", "hash", "bytes"):
        assert await cache.set(key, {"a": "2"}, ttl_ms=LONG)
        assert await cache.get(key) == {"a": "2"}


async def test_keys_that_are_no_text_are_dropped_too(cache: RedisCache, own_redis: RedisProcess) -> None:
    keys = [b"pos:{\xff}", b"pos:{\xed\xa0\x80}", "pos:{한글}".encode()]
    with redis.Redis.from_url(own_redis.url, legacy_responses=False) as client:
        for key in keys:
            client.hset(key, mapping={"a": "1"})
        assert await cache.drop_all(["pos:{"]) == len(keys)
        assert client.dbsize() == 0


async def test_stored_value_is_a_readable_hash_with_a_ttl(cache: RedisCache, own_redis: RedisProcess) -> None:
    """A value is a Redis hash that an operator can read, and Redis expires it."""
    await cache.set("pos:{005930}", {"qty": "-10.50000000", "symbol": "005930"}, ttl_ms=LONG)
    with redis.Redis.from_url(own_redis.url, decode_responses=True, legacy_responses=False) as client:
        found = client.hgetall("pos:{005930}")
        assert found["qty"] == "-10.50000000"
        assert LONG / 2 < client.pttl("pos:{005930}") <= LONG


async def test_wrong_password_is_an_error_and_never_shown(own_redis: RedisProcess) -> None:
    with redis.Redis.from_url(own_redis.url, legacy_responses=False) as client:
        client.config_set("requirepass", "another")
    cache = RedisCache(patient(host="127.0.0.1", port=own_redis.port, password="hunter2"))
    with pytest.raises(CacheUnavailable) as caught:
        await cache.get("k")
    assert "hunter2" not in str(caught.value)
    assert "HELLO" in str(caught.value)
    assert "hunter2" not in repr(CacheConfig(password="hunter2"))
    await cache.close()


async def test_a_user_a_password_and_a_database_are_taken_from_the_url(own_redis: RedisProcess) -> None:
    with redis.Redis.from_url(own_redis.url, legacy_responses=False) as client:
        client.execute_command("ACL", "SETUSER", "engine", "on", ">secret", "~*", "+@all")
    cache = RedisCache(patient(url=f"redis://engine:secret@127.0.0.1:{own_redis.port}/3"))
    await cache.set("k", {"a": "1"}, ttl_ms=LONG)
    with redis.Redis(port=own_redis.port, db=3, legacy_responses=False) as client:
        assert client.exists("k")
    await cache.close()


async def test_a_unix_socket_serves_too(tmp_path: Path, short_directory: Path, own_redis: RedisProcess) -> None:
    path = f"{short_directory}/redis.sock"
    with redis.Redis.from_url(own_redis.url, legacy_responses=False) as client:
        version = client.info("server")["redis_version"]
    directory = tmp_path / "second"
    directory.mkdir()
    server = RedisProcess(directory, "--unixsocket", path)
    server.start()
    cache = RedisCache(patient(url=f"unix://{path}?db=1"))
    try:
        await cache.set("k", {"a": "1"}, ttl_ms=LONG)
        assert await cache.get("k") == {"a": "1"}
        assert (await cache.health_check()).detail == f"Redis {version}"
    finally:
        await cache.close()
        server.stop()


async def test_impossible_url_is_refused_without_its_password() -> None:
    """The error about an impossible URL does not contain the password."""
    for url in ("http://user:hunter2@localhost", "localhost:6379", "redis://:hunter2@localhost:port/0"):
        with pytest.raises(ConfigurationError) as caught:
            RedisCache(CacheConfig(url=url))
        assert "hunter2" not in str(caught.value)


async def test_the_clock_of_the_server_is_known_within_a_round_trip(cache: RedisCache) -> None:
    started = time.monotonic()
    await fill(cache, 20)
    took = time.monotonic() - started
    link = await cache.link("k1")
    # Both clocks are those of this machine.
    offset = time.time() - time.monotonic()
    assert link.clock.low - 0.001 <= offset <= link.clock.high + 0.001
    assert link.clock.high - link.clock.low <= took
    assert isinstance(await cache.lookup("k1"), Entry)


async def test_a_number_and_a_text_are_packed_as_resp() -> None:
    assert pack("GET", 1, b"\xff") == b"*3\r\n$3\r\nGET\r\n$1\r\n1\r\n$1\r\n\xff\r\n"
