"""The near cache: values in the process itself that other processes change."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from qts_data.cache import CacheManager, RedisCache
from qts_data.cache.codec import POSITION
from qts_data.cache.manager import position_version
from qts_data.cache.near import NearCache
from qts_data.cache.port import Write
from qts_data.contracts import OperatingState, SafetyState
from tests.fixtures.cache_rows import Source, patient, position
from tests.fixtures.factories import FillFactory
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from qts_data.contracts import Position
    from tests.fixtures.redis_process import RedisProcess

S = "005930"
KEY = "pos:{005930}"
LONG = 600_000
RACE_SECONDS = 0.01
MAY_BE_STALE_SECONDS = 0.02


@pytest.fixture
def source() -> Source:
    return Source()


def near_manager(url: str, source: Source, **values: Any) -> CacheManager:
    return CacheManager(patient(url=url, near_entries=100, **values), source.loaders)


def remote(url: str) -> RedisCache:
    return RedisCache(patient(url=url))


def write_of(version: int, ttl_ms: int = LONG, read_at: float | None = None) -> Write:
    held = position(version)
    return Write(KEY, POSITION.encode(held), ttl_ms, position_version(held), read_at)


async def settled(manager: CacheManager, work: Awaitable[Any]) -> Any:
    found = await work
    await manager.aside.settle()
    return found


async def is_now(manager: CacheManager, expected: Position) -> bool:
    return await manager.get_position(S) == expected


async def is_near(manager: CacheManager) -> bool:
    before = manager.get_stats().near_hits
    await manager.get_position(S)
    return manager.get_stats().near_hits == before + 1


async def stale_reads(url: str, manager: CacheManager, rounds: int) -> int:
    """Count values that are old 20 ms after the last write, of 200 read while another process wrote them.

    Each round is 1,000 reads.
    """
    writer = remote(url)
    stale = 0

    async def write(n: int, version: int) -> None:
        held = position(version, f"S{n}")
        await asyncio.sleep(random.random() * RACE_SECONDS)
        await writer.set(f"pos:{{S{n}}}", POSITION.encode(held), ttl_ms=LONG, version=position_version(held))

    async def read(n: int) -> None:
        await asyncio.sleep(random.random() * RACE_SECONDS)
        await manager.get_position(f"S{n}")

    await asyncio.gather(manager.get_price("connect"), *(write(n, 1) for n in range(200)))
    for version in range(2, rounds + 2):
        await asyncio.gather(*(write(n, version) for n in range(200)), *(read(n % 200) for n in range(800)))
        await asyncio.sleep(MAY_BE_STALE_SECONDS)
        # An answer on the manager's connection comes after all notifications that the server owes it.
        await manager.get_price("answered")
        for n in range(200):
            found = await manager.get_position(f"S{n}")
            assert found is not None
            stale += found.last_ledger_id < version
    await writer.close()
    return stale


def racing(url: str, source: Source) -> CacheManager:
    return CacheManager(patient(url=url, near_entries=1000), source.loaders)


async def test_no_read_is_stale_in_a_race_with_another_process(redis_url: str, source: Source) -> None:
    """20,000 reads race with a writer in another process. The near cache gives no outdated value."""
    async with racing(redis_url, source) as manager:
        assert await stale_reads(redis_url, manager, 20) == 0
        stats = manager.get_stats()
        assert stats.hits == 20_000
        # Values were near, and each was read again at least once after each of its 20 changes.
        assert 1_000 < stats.near_hits <= 16_000
        assert source.reads == 0


async def test_near_cache_not_notified_is_stale_in_that_race(
    redis_url: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without notifications the same race gives stale values: the test above can fail."""
    monkeypatch.setattr(NearCache, "invalidated", lambda *_: None)
    async with racing(redis_url, source) as manager:
        assert await stale_reads(redis_url, manager, 5) > 0


async def test_hit_stays_in_the_process_until_another_one_writes(redis_url: str, source: Source) -> None:
    """Hits are served from the near cache. A write of another process ends that."""
    other = remote(redis_url)
    async with near_manager(redis_url, source) as manager:
        await other.set_many([write_of(1)])
        for _ in range(3):
            assert await manager.get_position(S) == position(1)
        assert (manager.get_stats().hits, manager.get_stats().near_hits) == (3, 2)
        source.elsewhere(3)
        await other.set_many([write_of(2)])
        await eventually(lambda: is_now(manager, position(2)))
        assert source.reads == 0
        await other.invalidate(KEY, ttl_ms=LONG, version=position_version(position(3)))
        await eventually(lambda: is_now(manager, position(3)))
    await other.close()


async def test_own_writes_are_brought_near(redis_url: str, source: Source) -> None:
    async with near_manager(redis_url, source) as manager:
        for version in range(1, 11):
            await manager.update_position_on_fill(FillFactory.build(symbol=S))
            assert await manager.get_position(S) == position(version)
            await manager.aside.settle()
            await eventually(lambda: is_near(manager))
            assert await manager.get_position(S) == position(version)
        assert source.reads == 0


async def test_a_value_is_not_near_for_longer_than_it_is_in_redis(redis_url: str, source: Source) -> None:
    other = remote(redis_url)
    async with near_manager(redis_url, source) as manager:
        await manager.get_price(S)  # connected
        await other.get(KEY)
        source.elsewhere(2)
        await other.set_many([write_of(1, ttl_ms=1000, read_at=time.monotonic() - 0.9)])
        over = time.monotonic() + 0.1
        first = await manager.get_position(S)
        await asyncio.sleep(max(0, over - time.monotonic()) + 0.01)
        assert await manager.get_position(S) == position(2)
        assert first in {position(1), position(2)}
    await other.close()


async def test_limits_that_another_process_changes_are_read_anew(redis_url: str, source: Source) -> None:
    other = near_manager(redis_url, source)
    async with near_manager(redis_url, source) as manager:
        await settled(manager, manager.get_risk())
        await settled(other, other.get_risk())
        reads = source.other_reads
        source.limits = {}
        await other.risk_changed()

        async def gone() -> bool:
            return await manager.get_risk() is None

        await eventually(gone)
        assert source.other_reads == reads + 2  # those of the account, and those of all accounts
    await other.close()


async def test_cache_without_notifications_keeps_nothing_near(redis_url: str, source: Source) -> None:
    shared = remote(redis_url)
    async with CacheManager(patient(url=redis_url, near_entries=100), source.loaders, cache=shared) as manager:
        source.elsewhere(1)
        assert await settled(manager, manager.get_position(S)) == position(1)
        assert await manager.get_position(S) == position(1)
        other = remote(redis_url)
        await other.set_many([write_of(2)])
        assert await manager.get_position(S) == position(2)
        assert manager.get_stats().near_hits == 0
        await other.close()


async def test_with_the_connection_everything_near_is_forgotten(own_redis: RedisProcess, source: Source) -> None:
    async with near_manager(own_redis.url, source) as manager:
        source.elsewhere(1)
        await settled(manager, manager.get_position(S))
        await eventually(lambda: is_near(manager))
        source.elsewhere(2)
        own_redis.cut()
        # The connection is cut, so no notification comes for this change.
        with redis.Redis.from_url(own_redis.url, legacy_responses=False) as client:
            client.flushall()
        await eventually(lambda: is_now(manager, position(2)))
        await manager.aside.settle()
        await eventually(lambda: is_near(manager))


async def test_server_that_empties_itself_notifies_the_near_cache(own_redis: RedisProcess, source: Source) -> None:
    async with near_manager(own_redis.url, source) as manager:
        source.elsewhere(1)
        await settled(manager, manager.get_position(S))
        await eventually(lambda: is_near(manager))
        with redis.Redis.from_url(own_redis.url, legacy_responses=False) as client:
            client.flushall()
        source.elsewhere(2)
        await eventually(lambda: is_now(manager, position(2)))


async def test_other_state_of_the_engine_empties_the_near_cache(redis_url: str, source: Source) -> None:
    async with near_manager(redis_url, source) as manager:
        for change in ("operating", "safety"):
            await manager.set_safety(SafetyState.NORMAL)
            source.elsewhere(1)
            await settled(manager, manager.get_position(S))
            await manager.get_position(S)
            before = manager.get_stats().near_hits
            if change == "operating":
                manager.set_operating(OperatingState.DEFENSIVE)
            else:
                await manager.set_safety(SafetyState.LOCKDOWN)
            await manager.get_position(S)
            assert manager.get_stats().near_hits == before


async def test_precheck_takes_near_values_first(redis_url: str, source: Source) -> None:
    async with near_manager(redis_url, source) as manager:
        source.elsewhere(1)
        for _ in range(2):
            seen = await settled(manager, manager.precheck(S, "main", "s1"))
        before = manager.get_stats().near_hits
        seen = await manager.precheck(S, "main", "s1")
        assert manager.get_stats().near_hits == before + 4  # limits are of the account and of all accounts
        assert (seen.quote, seen.position) == (None, position(1))
