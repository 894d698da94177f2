"""The promises of every cache: one suite in memory, on Redis and on a Redis Cluster."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from qts_data.cache.memory import MemoryCache
from qts_data.cache.port import MISSING, BookSides, BookWrite, Cache, Entry, Write, version_text
from qts_data.cache.redis import RedisCache
from tests.fixtures.cache_rows import patient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG = 600_000


@pytest_asyncio.fixture(params=["memory", "redis", "cluster"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    if request.param == "memory":
        made: Cache = MemoryCache()
    elif request.param == "cluster":
        url = request.getfixturevalue("redis_cluster").url
        made = RedisCache(patient(url=url, cluster=True))
    else:
        made = RedisCache(patient(url=request.getfixturevalue("redis_url")))
    yield made
    await made.close()


def book(bids: list[tuple[str, str]], asks: list[tuple[str, str]], version: int = 1, ttl_ms: int = LONG) -> BookWrite:
    base = "book:{S}"
    return BookWrite(f"{base}:bid", f"{base}:ask", base, bids, asks, ttl_ms, version_text(version), {"n": str(version)})


async def read_book(cache: Cache, levels: int = 10) -> BookSides:
    found = await cache.get_book("book:{S}:bid", "book:{S}:ask", "book:{S}", levels=levels)
    assert isinstance(found, BookSides)
    return found


async def test_value_that_was_set_is_read_back(cache: Cache) -> None:
    assert await cache.set("k", {"a": "1", "b": "한글 \n\r\n text"}, ttl_ms=LONG)
    assert await cache.get("k") == {"a": "1", "b": "한글 \n\r\n text"}


async def test_key_never_set_is_missing_and_not_a_cached_none(cache: Cache) -> None:
    """A miss gives `MISSING`. A cached None gives None."""
    assert await cache.get("k") is MISSING
    assert not MISSING
    assert await cache.set("k", None, ttl_ms=LONG)
    assert await cache.get("k") is None
    assert MISSING is not None


async def test_a_value_is_replaced_whole(cache: Cache) -> None:
    await cache.set("k", {"a": "1", "old": "1"}, ttl_ms=LONG)
    await cache.set("k", {"a": "2"}, ttl_ms=LONG)
    assert await cache.get("k") == {"a": "2"}


async def test_a_value_ends_with_its_ttl_to_the_millisecond(cache: Cache) -> None:
    before = time.monotonic()
    await cache.set("k", {"a": "1"}, ttl_ms=LONG)
    after = time.monotonic()
    entry = await cache.lookup("k")
    assert isinstance(entry, Entry)
    # Redis counts whole milliseconds, and the clock has bounds: the value may end earlier by both.
    assert before + LONG / 1000 - 0.0015 - (after - before) <= entry.expires_at <= after + LONG / 1000
    assert entry.expires_at - entry.read_at == pytest.approx(LONG / 1000, abs=1e-5)
    await cache.set("k", {"a": "1"}, ttl_ms=80)
    await asyncio.sleep(0.081)
    assert await cache.get("k") is MISSING


async def test_ttl_counts_from_the_read_of_the_source(cache: Cache) -> None:
    """The TTL of a value begins when its source was read, however late the value is written."""
    assert await cache.set("warm", {"a": "1"}, ttl_ms=LONG)
    assert not await cache.set("late", {"a": "1"}, ttl_ms=100, read_at=time.monotonic() - 0.2)
    assert await cache.get("late") is MISSING
    assert await cache.set("k", {"a": "1"}, ttl_ms=LONG, read_at=time.monotonic() - 20)
    entry = await cache.lookup("k")
    assert isinstance(entry, Entry)
    assert entry.expires_at <= time.monotonic() + LONG / 1000 - 20


async def test_a_ttl_below_a_millisecond_is_refused(cache: Cache) -> None:
    with pytest.raises(ValueError, match="1 ms or more"):
        await cache.set("k", {"a": "1"}, ttl_ms=0)


async def test_an_older_version_never_replaces_a_newer_one(cache: Cache) -> None:
    # From 2^53 + 1 on, two versions would be equal as doubles.
    old, new = version_text(2**53), version_text(2**53 + 1)
    assert await cache.set("k", {"a": "new"}, ttl_ms=LONG, version=new)
    assert not await cache.set("k", {"a": "old"}, ttl_ms=LONG, version=old)
    assert not await cache.set("k", None, ttl_ms=LONG, version=old)
    assert await cache.get("k") == {"a": "new"}
    assert await cache.set("k", {"a": "again"}, ttl_ms=LONG, version=new)
    assert await cache.get("k") == {"a": "again"}


async def test_expired_newer_value_removes_the_older_one(cache: Cache) -> None:
    await cache.set("k", {"a": "1"}, ttl_ms=LONG, version=version_text(1))
    late = time.monotonic() - 1
    assert not await cache.set("k", {"a": "2"}, ttl_ms=100, version=version_text(2), read_at=late)
    assert await cache.get("k") is MISSING


async def test_value_read_before_an_invalidation_is_refused(cache: Cache) -> None:
    """A value read before the invalidation is not written. A value read after it is."""
    await cache.set("k", {"a": "0"}, ttl_ms=LONG)
    read_at = time.monotonic()
    await cache.invalidate("k", ttl_ms=LONG)
    assert await cache.get("k") is MISSING
    assert not await cache.set("k", {"a": "old"}, ttl_ms=LONG, read_at=read_at)
    assert await cache.get("k") is MISSING
    await asyncio.sleep(0.005)
    assert await cache.set("k", {"a": "new"}, ttl_ms=LONG)
    assert await cache.get("k") == {"a": "new"}


async def test_invalidation_up_to_a_version_takes_that_version(cache: Cache) -> None:
    """An invalidation with a version refuses older rows and accepts a row of that version."""
    await cache.invalidate("k", ttl_ms=LONG, version=version_text(5))
    assert not await cache.set("k", {"a": "4"}, ttl_ms=LONG, version=version_text(4))
    assert await cache.set("k", {"a": "5"}, ttl_ms=LONG, version=version_text(5))


async def test_a_versioned_row_read_after_an_invalidation_is_taken(cache: Cache) -> None:
    """The version of the row and the time of the invalidation are not comparable."""
    for _ in range(2):
        read_at = time.monotonic()
        await cache.invalidate("k", ttl_ms=LONG)
        assert not await cache.set("k", {"a": "old"}, ttl_ms=LONG, version=version_text(7), read_at=read_at)
        await asyncio.sleep(0.01)
        assert await cache.set("k", {"a": "new"}, ttl_ms=LONG, version=version_text(5))
        assert await cache.get("k") == {"a": "new"}
        assert not await cache.set("k", {"a": "older"}, ttl_ms=LONG, version=version_text(4))
    await cache.set("k", {"a": "ahead"}, ttl_ms=LONG, version="9" * 19)
    await cache.invalidate("k", ttl_ms=LONG)
    assert not await cache.get("k")


async def test_expired_value_is_returned_on_request_only(cache: Cache) -> None:
    assert await cache.set_many([Write("k", {"a": "1"}, 20, stale_ms=LONG)]) == [True]
    await asyncio.sleep(0.025)
    assert await cache.get("k") is MISSING
    entry = await cache.lookup("k", stale=True)
    assert isinstance(entry, Entry)
    assert entry.value == {"a": "1"}
    assert entry.expires_at <= time.monotonic()


async def test_many_are_read_and_written_in_their_order(cache: Cache) -> None:
    writes = [Write(f"k{n}", {"n": str(n)} if n % 3 else None, LONG) for n in range(20)]
    assert await cache.set_many(writes) == [True] * 20
    await cache.delete("k7", "k8", "never")
    found = await cache.get_many([f"k{n}" for n in reversed(range(20))])
    expected = [MISSING if n in {7, 8} else {"n": str(n)} if n % 3 else None for n in reversed(range(20))]
    assert found == expected
    assert await cache.get_many([]) == []
    assert await cache.set_many([]) == []


async def test_a_value_of_thousands_of_fields_fits(cache: Cache) -> None:
    value = {f"f{n}": str(n) for n in range(9_999)}
    await cache.set("k", value, ttl_ms=LONG)
    assert await cache.get("k") == value


async def test_delete_counts_the_keys_that_existed(cache: Cache) -> None:
    await cache.set("a", {"a": "1"}, ttl_ms=LONG)
    assert await cache.delete("a", "b") == 1
    assert await cache.get("a") is MISSING


async def test_a_book_is_sorted_by_price_and_cut_at_the_depth(cache: Cache) -> None:
    assert await cache.set_book(
        book([("9", "1"), ("10", "2"), ("9.5", "100")], [("12", "1"), ("11", "5"), ("100", "1")])
    )
    found = await read_book(cache, levels=2)
    assert found.bids == (("10", "2"), ("9.5", "100"))
    assert found.asks == (("11", "5"), ("12", "1"))
    assert found.meta.value == {"n": "1"}


async def test_prices_equal_as_doubles_stay_apart_and_sorted(cache: Cache) -> None:
    low, high = "9999999999.00000001", "9999999999.00000002"
    assert float(low) == float(high)
    await cache.set_book(book([(low, "1"), (high, "2")], [(high, "3"), (low, "4")]))
    found = await read_book(cache)
    assert found.bids == ((high, "2"), (low, "1"))
    assert found.asks == ((low, "4"), (high, "3"))
    assert (await read_book(cache, levels=1)).bids == ((high, "2"),)


async def test_a_book_is_replaced_whole_and_only_by_a_newer_one(cache: Cache) -> None:
    assert await cache.set_book(book([("9", "1")], [("11", "1")], version=2))
    assert not await cache.set_book(book([("1", "1")], [], version=1))
    assert await cache.set_book(book([], [("12", "1")], version=3))
    found = await read_book(cache)
    assert (found.bids, found.asks) == ((), (("12", "1"),))


async def test_a_book_ends_with_its_ttl(cache: Cache) -> None:
    await cache.set_book(book([("9", "1")], [], ttl_ms=30))
    await asyncio.sleep(0.032)
    assert await cache.get_book("book:{S}:bid", "book:{S}:ask", "book:{S}", levels=1) is MISSING


async def test_drop_removes_the_keys_of_its_prefix_only(cache: Cache) -> None:
    await cache.set_many([Write(f"mine:pos:{{{n}}}", {"a": "1"}, LONG) for n in range(700)])
    await cache.set("other:pos:{1}", {"a": "1"}, ttl_ms=LONG)
    assert await cache.drop_all(["mine:pos:{", "mine:price:{"]) == 700
    assert await cache.get("mine:pos:{1}") is MISSING
    assert await cache.get("other:pos:{1}") == {"a": "1"}


async def test_health_check_reports_its_latency(cache: Cache) -> None:
    health = await cache.health_check()
    assert health.healthy
    assert health.latency_seconds is not None
