"""The hot tier as an engine uses it: allowed values, reads of the database, and a dead cache."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pytest
import pytest_asyncio
import redis

from qts_data import bootstrap
from qts_data.cache import CacheManager, Entry, MemoryCache
from qts_data.cache.manager import position_version
from qts_data.contracts import (
    BookedFill,
    BookLevel,
    CacheConfig,
    CacheEvent,
    CacheType,
    OperatingState,
    OrderBook,
    OrderState,
    Reversal,
    SafetyState,
)
from qts_data.errors import ConfigurationError, DatabaseUnavailable, InvalidRecord, OutcomeUnknown, WritesRefused
from qts_data.repositories import Database
from qts_data.settings import Settings, load_settings
from qts_data.writers import FillWriter
from tests.fixtures.cache_rows import NOW, Source, marked, patient, position, quote
from tests.fixtures.factories import FillFactory
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.engine import URL

    from qts_data.cache.manager import PositionCommitted
    from qts_data.contracts import LedgerEntry
    from tests.fixtures.fix_proxy import Proxy
    from tests.fixtures.redis_process import RedisProcess

S = "005930"
KEY = "pos:{005930}"


@pytest.fixture
def source() -> Source:
    return Source()


@pytest_asyncio.fixture(params=["memory", "redis"])
async def manager(request: pytest.FixtureRequest, source: Source) -> AsyncIterator[CacheManager]:
    if request.param == "memory":
        made = CacheManager(patient(), source.loaders, cache=MemoryCache())
    else:
        made = CacheManager(patient(url=request.getfixturevalue("redis_url")), source.loaders)
    async with made:
        yield made


def on(server: RedisProcess, source: Source, **values: Any) -> CacheManager:
    events = values.pop("on_event", None)
    return CacheManager(patient(url=server.url, **values), source.loaders, on_event=events)


async def settled(manager: CacheManager, work: Awaitable[Any]) -> Any:
    found = await work
    await manager.aside.settle()
    return found


# Positions


async def test_a_position_is_read_once_and_then_served_exactly(manager: CacheManager, source: Source) -> None:
    held = source.elsewhere(7)
    assert await settled(manager, manager.get_position(S)) == held
    for _ in range(3):
        found = await manager.get_position(S)
        assert found == held
        assert found is not None
        assert str(found.avg_price) == "71500.00000000"
        assert found.updated_at.tzinfo is dt.UTC
    assert source.reads == 1
    assert (manager.get_stats().hits, manager.get_stats().misses) == (3, 1)
    assert manager.get_stats().hit_rate == 0.75


async def test_absent_position_is_cached_until_a_fill(manager: CacheManager, source: Source) -> None:
    """The absence of a position is cached too. A fill replaces it."""
    assert await settled(manager, manager.get_position(S)) is None
    assert await manager.get_position(S) is None
    assert source.reads == 1
    await manager.update_position_on_fill(FillFactory.build(symbol=S))
    assert (await manager.get_position(S)) == position(1)
    assert source.reads == 1


async def test_positions_of_two_accounts_do_not_meet(manager: CacheManager, source: Source) -> None:
    source.rows[S, "main"] = position(1)
    source.rows[S, "second"] = position(2, account="second")
    for _ in range(2):
        assert await settled(manager, manager.get_position(S)) == position(1)
        assert await settled(manager, manager.get_position(S, "second")) == position(2, account="second")
    assert source.reads == 2


async def test_accounts_with_colons_do_not_meet(manager: CacheManager, source: Source) -> None:
    for version, account in enumerate(("a:b", "a", "a%3Ab"), start=1):
        source.rows[S, account] = position(version, account=account)
        assert await settled(manager, manager.get_position(S, account)) == position(version, account=account)
    assert await manager.get_position(S, "a:b") == position(1, account="a:b")
    assert source.reads == 3


async def test_name_that_no_server_takes_is_refused_at_once(manager: CacheManager, source: Source) -> None:
    """A half surrogate pair raises `InvalidRecord` with its field before the cache or the database is asked."""
    half = "\ud800"
    for field, call in (
        ("symbol", manager.get_price(half)),
        ("symbol", manager.get_orderbook(half)),
        ("symbol", manager.get_position(half)),
        ("account", manager.get_position(S, half)),
        ("account", manager.get_risk(half)),
        ("strategy_id", manager.get_strategy(half)),
        ("order_id", manager.get_order(half)),
        ("account", manager.precheck(S, half, "s1")),
    ):
        with pytest.raises(InvalidRecord) as caught:
            await cast("Awaitable[Any]", call)
        assert caught.value.field == field
    assert source.reads == source.other_reads == 0
    assert manager.get_stats().errors == 0


async def test_thousand_concurrent_misses_read_the_database_once(manager: CacheManager, source: Source) -> None:
    source.elsewhere(3)
    found = await asyncio.gather(*(manager.get_position(S) for _ in range(1000)))
    assert set(map(id, found)) == {id(found[0])}
    assert source.reads == 1


async def test_cancelled_reader_is_followed_by_another_reader(manager: CacheManager, source: Source) -> None:
    source.elsewhere(3)
    source.hold = asyncio.Event()
    tasks = [asyncio.ensure_future(manager.get_position(S)) for _ in range(10)]
    await source.asked(1)
    tasks[0].cancel()
    await source.asked(2)
    source.hold.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [position(3)] * 9
    assert source.reads == 2


async def test_an_error_of_the_database_reaches_all_and_is_not_cached(manager: CacheManager, source: Source) -> None:
    source.error = DatabaseUnavailable("down")
    found = await asyncio.gather(*(manager.get_position(S) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(item, DatabaseUnavailable) for item in found)
    source.error = None
    source.elsewhere(1)
    assert await manager.get_position(S) == position(1)


# The race: an old row written back after a newer one


async def test_row_read_before_a_fill_is_not_returned_or_cached(manager: CacheManager, source: Source) -> None:
    """A fill is booked while an older read of the position is under way."""
    source.elsewhere(1)
    source.hold = asyncio.Event()
    slow = asyncio.ensure_future(manager.get_position(S))
    await source.asked(1)
    await manager.update_position_on_fill(FillFactory.build(symbol=S))
    source.hold.set()
    assert await slow == position(2)
    await manager.aside.settle()
    assert await manager.get_position(S) == position(2)
    entry = await manager.cache.lookup(KEY)
    assert entry
    assert entry.version == position_version(position(2))  # type: ignore[union-attr]


async def test_call_after_a_fill_does_not_join_an_earlier_read(manager: CacheManager, source: Source) -> None:
    """A read that began before the fill is under way. A caller after the fill starts a read of its own."""
    source.elsewhere(1)
    held = source.hold = asyncio.Event()
    slow = asyncio.ensure_future(manager.get_position(S))
    await source.asked(1)
    source.hold = None
    manager.position_committed(source.elsewhere(2))
    assert await manager.get_position(S) == position(2)
    held.set()
    assert await slow == position(2)


async def test_an_old_row_written_back_by_another_process_is_refused(redis_url: str, source: Source) -> None:
    """A reader of another process has read version 1. We commit 2, then it writes 1 back."""
    ours = CacheManager(patient(url=redis_url), source.loaders)
    other_source = Source()
    theirs = CacheManager(patient(url=redis_url), other_source.loaders)
    source.elsewhere(1)
    other_source.elsewhere(1)
    other_source.hold = asyncio.Event()
    slow = asyncio.ensure_future(theirs.get_position(S))
    await other_source.asked(1)
    await ours.update_position_on_fill(FillFactory.build(symbol=S))
    other_source.hold.set()
    assert await settled(theirs, slow) == position(1)  # another process, which began before the fill
    assert theirs.get_stats().refused == 1
    assert await theirs.get_position(S) == position(2)
    assert await ours.get_position(S) == position(2)
    await ours.close()
    await theirs.close()


async def test_without_the_fence_that_race_leaves_the_old_row(redis_url: str) -> None:
    """The same interleaving with plain SET and DEL serves the old row: the test above can fail."""
    async with redis.asyncio.Redis.from_url(redis_url, legacy_responses=False) as client:
        row = "version 1"
        await client.delete(KEY)  # the fill commits version 2 and invalidates
        await client.set(KEY, row, px=1000)  # the reader writes back
        assert await client.get(KEY) == b"version 1"


async def test_a_duplicate_does_not_bring_the_first_booking_back(manager: CacheManager, source: Source) -> None:
    for _ in range(3):
        await manager.update_position_on_fill(FillFactory.build(symbol=S))

    async def again(entry: LedgerEntry, committed: PositionCommitted) -> BookedFill:
        assert entry.symbol == S
        committed(position(1), time.monotonic())
        return BookedFill(ledger_id=1, realized_pnl=Decimal(0), position=position(1), duplicate=True)

    object.__setattr__(source.loaders, "record_fill", again)
    await manager.update_position_on_fill(FillFactory.build(symbol=S))
    assert await manager.get_position(S) == position(3)


async def test_valuation_replaces_its_position_of_the_same_entry(manager: CacheManager, source: Source) -> None:
    """A valuation has the version of the same ledger entry and is nevertheless newer."""
    await manager.update_position_on_fill(FillFactory.build(symbol=S))
    valued = marked(position(1))
    source.rows[S, "main"] = valued
    manager.position_committed(valued, time.monotonic())
    await manager.aside.settle()
    assert await manager.get_position(S) == valued


async def test_loader_with_unknown_outcome_fences_older_positions(manager: CacheManager, source: Source) -> None:
    """After `OutcomeUnknown` the position is read anew: the fill may have been booked."""
    source.elsewhere(1)
    await settled(manager, manager.get_position(S))

    async def lost(entry: LedgerEntry, _committed: PositionCommitted) -> BookedFill:
        assert entry.symbol == S
        source.elsewhere(2)
        raise OutcomeUnknown

    object.__setattr__(source.loaders, "record_fill", lost)
    with pytest.raises(OutcomeUnknown):
        await manager.update_position_on_fill(FillFactory.build(symbol=S))
    assert await manager.get_position(S) == position(2)


async def test_a_cached_position_ends_with_its_ttl_and_is_read_anew(source: Source, redis_url: str) -> None:
    config = patient(url=redis_url, ttl_ms={CacheType.POSITION: 60})
    async with CacheManager(config, source.loaders) as manager:
        source.elsewhere(1)
        await settled(manager, manager.get_position(S))
        source.elsewhere(2)
        await asyncio.sleep(0.061)
        assert await manager.get_position(S) == position(2)


async def test_a_record_of_another_layout_is_a_miss(manager: CacheManager, source: Source) -> None:
    source.elsewhere(1)
    await settled(manager, manager.get_position(S))
    entry = await manager.cache.lookup(KEY)
    assert entry
    fields = dict(entry.value or {})  # type: ignore[union-attr]
    texts = [
        '{"qty": "1"}',
        "no JSON",
        *(fields["json"].replace('"1"', value) for value in ('"many"', '"NaN"', "true")),
    ]
    spoils = [fields | {"v": "2"}, {"v": "1"}, {}, *(fields | {"json": text} for text in texts)]
    assert len({spoiled.get("json") for spoiled in spoils}) == 7
    for spoiled in spoils:
        reads = source.reads
        await manager.cache.set(KEY, spoiled, ttl_ms=60_000, version=position_version(position(1)))
        assert await settled(manager, manager.get_position(S)) == position(1)
        assert source.reads == reads + 1


# With the cache down


async def test_an_old_row_that_survived_an_outage_is_not_served(own_redis: RedisProcess, source: Source) -> None:
    config: dict[str, Any] = {"socket_timeout_seconds": 0.5, "breaker_recovery_seconds": 0.0}
    async with on(own_redis, source, **config) as manager:
        source.elsewhere(1)
        await settled(manager, manager.get_position(S))
        own_redis.pause()
        await manager.update_position_on_fill(FillFactory.build(symbol=S))
        assert await manager.get_position(S) == position(2)
        own_redis.resume()

        async def served() -> bool:
            reads = source.reads
            assert await settled(manager, manager.get_position(S)) == position(2)
            return source.reads == reads

        await eventually(served)
        for _ in range(10):
            assert await manager.get_position(S) == position(2)


async def test_dead_cache_raises_nothing_and_opens_the_breaker(own_redis: RedisProcess, source: Source) -> None:
    """Reads go to the database without an error. After five failures the cache is not asked."""
    events: list[CacheEvent] = []
    async with on(own_redis, source, on_event=events.append) as manager:
        source.elsewhere(1)
        await settled(manager, manager.get_position(S))
        own_redis.kill()
        for _ in range(20):
            assert await settled(manager, manager.get_position(S)) == position(1)
        assert manager.is_circuit_open()
        assert manager.get_stats().errors == 5
        assert [event.name for event in events] == ["CACHE_DEGRADED"]
        assert events[0].priority == 0
        assert await manager.get_price(S) is None
        assert not await manager.push_price(quote())
        await manager.update_position_on_fill(FillFactory.build(symbol=S))
        assert manager.get_stats().errors == 5


async def test_a_silent_cache_is_given_up_and_found_again(own_redis: RedisProcess, source: Source) -> None:
    events: list[CacheEvent] = []
    config: dict[str, Any] = {"socket_timeout_seconds": 0.02, "breaker_recovery_seconds": 0.1}
    async with on(own_redis, source, on_event=events.append, degraded_event="BROKER_DISCONNECT", **config) as manager:
        source.elsewhere(1)
        await settled(manager, manager.get_position(S))
        own_redis.pause()
        await asyncio.gather(*(manager.get_position(S) for _ in range(300)))
        # 300 calls that wait on one connection do not count as five failures.
        assert manager.breaker.failures <= 2
        while not manager.is_circuit_open():
            await manager.get_position(S)
        own_redis.resume()

        async def recovered() -> bool:
            await manager.get_position(S)
            return not manager.is_circuit_open()

        await eventually(recovered)
        names = [event.name for event in events]
        assert (names[0], names[-1]) == ("BROKER_DISCONNECT", "CACHE_RECOVERED")


# Prices, books, orders


async def test_price_comes_with_its_age_and_no_database_read(manager: CacheManager, source: Source) -> None:
    """A price has an age. An older price is not pushed, and the database is never asked."""
    assert await manager.get_price(S) is None
    pushed = quote("71500.10")
    assert await manager.push_price(pushed)
    found = await manager.get_price(S)
    assert found is not None
    assert found.value == pushed
    assert 0 <= found.age_seconds <= (dt.datetime.now(dt.UTC) - pushed.quoted_at).total_seconds() + 0.01
    assert not await manager.push_price(quote("1", at=pushed.quoted_at - dt.timedelta(milliseconds=1)))
    assert source.reads == source.other_reads == 0


@pytest.mark.parametrize("on_redis", [False, True])
async def test_a_price_and_a_book_end_with_their_ttls(source: Source, redis_url: str, *, on_redis: bool) -> None:
    cache = None if on_redis else MemoryCache()
    ttls = {CacheType.PRICE: 100, CacheType.ORDERBOOK: 50}
    async with CacheManager(patient(url=redis_url, ttl_ms=ttls), source.loaders, cache=cache) as manager:
        await manager.push_price(quote())
        await manager.push_orderbook(book({"99": "500"}, {}))
        await asyncio.sleep(0.1)
        assert await manager.get_price(S) is None
        assert await manager.get_orderbook(S) is None


async def test_age_of_a_price_is_at_least_that_of_its_feed(manager: CacheManager) -> None:
    await manager.push_price(quote(at=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=5)))
    found = await manager.get_price(S)
    assert found is not None
    assert found.age_seconds >= 5


def book(bids: dict[str, str], asks: dict[str, str]) -> OrderBook:
    def levels(side: dict[str, str]) -> tuple[BookLevel, ...]:
        return tuple(BookLevel(Decimal(price), Decimal(size)) for price, size in side.items())

    return OrderBook(symbol=S, bids=levels(bids), asks=levels(asks), quoted_at=dt.datetime.now(dt.UTC))


async def test_order_book_is_sorted_and_drops_levels_of_size_zero(manager: CacheManager) -> None:
    """Levels are sorted by price and cut at the depth. A level of size zero is left out."""
    assert await manager.get_orderbook(S) is None
    await manager.push_orderbook(book({"99": "500", "100": "1", "98": "7"}, {"102": "1", "101": "0", "101.5": "3"}))
    found = await manager.get_orderbook(S, levels=2)
    assert found is not None
    assert found.value.best_bid == BookLevel(Decimal(100), Decimal(1))
    assert found.value.best_ask == BookLevel(Decimal("101.5"), Decimal(3))
    assert [str(level.price) for level in found.value.bids] == ["100", "99"]
    assert 0 <= found.age_seconds <= (dt.datetime.now(dt.UTC) - found.value.quoted_at).total_seconds() + 0.01
    await manager.push_orderbook(book({"99": "500"}, {}))
    found = await manager.get_orderbook(S)
    assert found is not None
    assert (len(found.value.bids), found.value.best_ask) == (1, None)


async def test_order_is_the_one_pushed_last(manager: CacheManager) -> None:
    at = dt.datetime.now(dt.UTC)

    def order(filled: int, seconds: int) -> OrderState:
        return OrderState(
            order_id="A-{1}", symbol=S, account="main", side="BUY", qty=Decimal(10), filled_qty=Decimal(filled),
            status="PARTIAL", updated_at=at + dt.timedelta(seconds=seconds),
        )  # fmt: skip

    assert await manager.get_order("A-{1}") is None
    assert await manager.push_order(order(5, 2))
    assert not await manager.push_order(order(3, 1))
    assert await manager.get_order("A-{1}") == order(5, 2)


# Limits and parameters


async def test_limits_and_parameters_keep_their_types(manager: CacheManager, source: Source) -> None:
    for _ in range(2):
        risk = await settled(manager, manager.get_risk("main"))
        assert dict(risk.limits) == {"max_qty": Decimal("100.5")}
        strategy = await settled(manager, manager.get_strategy("s1"))
        assert dict(strategy.parameters) == {"fast": 5, "edge": Decimal("0.10"), "on": True}
        assert strategy.parameters["on"] is True
    assert source.other_reads == 3  # limits of the account, those of all accounts, parameters


async def test_changed_limits_are_served_and_old_ones_not_cached(manager: CacheManager, source: Source) -> None:
    """Limits change twice while a read is under way. The old limits are neither served nor written back."""
    await settled(manager, manager.get_risk("main"))
    source.hold = asyncio.Event()
    await manager.risk_changed("main")
    slow = asyncio.ensure_future(manager.get_risk("main"))  # it has read the old limits when they change again
    await source.asked(2)
    source.limits = {"max_qty": Decimal(7)}
    await manager.risk_changed("main")
    held, source.hold = source.hold, None
    held.set()
    risk = await settled(manager, slow)
    assert dict(risk.limits) == {"max_qty": Decimal(7)}
    found = await settled(manager, manager.get_risk("main"))
    assert dict(found.limits) == {"max_qty": Decimal(7)}


async def test_precheck_reads_all_four_and_loads_missing_ones(manager: CacheManager, source: Source) -> None:
    source.elsewhere(4)
    first = await settled(manager, manager.precheck(S, "main", "s1"))
    assert (first.quote, first.position) == (None, position(4))
    await manager.push_price(quote())
    reads = source.reads, source.other_reads
    second = await manager.precheck(S, "main", "s1")
    assert (source.reads, source.other_reads) == reads
    assert second.quote is not None
    assert second.position == position(4)
    assert second.risk is not None
    assert dict(second.risk.limits) == {"max_qty": Decimal("100.5")}
    assert second.strategy is not None
    assert second.strategy.parameters["edge"] == Decimal("0.10")


async def test_a_precheck_is_one_round_trip(own_redis: RedisProcess, source: Source) -> None:
    async with on(own_redis, source) as manager:
        await settled(manager, manager.precheck(S, "main", "s1"))
        with redis.Redis.from_url(own_redis.url, legacy_responses=False) as client:
            before = client.info("stats")["total_reads_processed"]
            for _ in range(10):
                await manager.precheck(S, "main", "s1")
            # This question is one of them.
            assert client.info("stats")["total_reads_processed"] - before == 11


async def test_ttls_of_limits_are_shortened_by_up_to_a_tenth(manager: CacheManager, source: Source) -> None:
    """TTLs of limits vary at random between 90 % and 100 %, so that they do not all end together."""
    ends = set()
    for account in range(30):
        await settled(manager, manager.get_risk(f"a{account}"))
        entry = await manager.cache.lookup(f"risk:{{a{account}}}")
        assert isinstance(entry, Entry)
        ends.add(round((entry.expires_at - entry.read_at) * 1000))
    assert source.other_reads == 31  # and one read of the limits of all accounts
    assert len(ends) > 5
    assert 540_000 <= min(ends) < max(ends) <= 600_000


async def test_after_a_warm_up_the_database_is_not_asked(manager: CacheManager, source: Source) -> None:
    source.elsewhere(1)
    await manager.warm_up(positions=[(S, "main")], accounts=["main"], strategies=["s1"])
    reads = source.reads, source.other_reads
    await manager.precheck(S, "main", "s1")
    assert (source.reads, source.other_reads) == reads == (1, 3)


# States


async def test_in_fail_nothing_is_written_and_everything_is_read(manager: CacheManager, source: Source) -> None:
    source.elsewhere(1)
    await manager.set_safety(SafetyState.WARNING)
    await manager.push_price(quote())
    await manager.set_safety(SafetyState.FAIL)
    assert await manager.get_position(S) == position(1)
    for write in (
        manager.update_position_on_fill(FillFactory.build(symbol=S)),
        manager.push_price(quote()),
        manager.push_orderbook(book({}, {})),
    ):
        with pytest.raises(WritesRefused, match="FAIL"):
            await write
    assert source.rows[S, "main"] == position(1)
    await manager.set_safety(SafetyState.NORMAL)
    assert await manager.push_price(quote())


async def test_a_lockdown_drops_the_keys_of_the_prefix_and_no_others(redis_url: str, source: Source) -> None:
    def made(prefix: str) -> CacheManager:
        return CacheManager(patient(url=redis_url, prefix=prefix), source.loaders)

    ours, others = made("ours:"), made("others:")
    source.elsewhere(1)
    for manager in (ours, others):
        await manager.push_orderbook(book({"1": "1"}, {}))
        await settled(manager, manager.precheck(S, "main", "s1"))
    await ours.set_safety(SafetyState.LOCKDOWN)
    with redis.Redis.from_url(redis_url, decode_responses=True, legacy_responses=False) as client:
        assert all(str(key).startswith("others:") for key in client.scan_iter())
        assert client.exists("others:pos:{005930}")
        assert await settled(ours, ours.get_position(S)) == position(1)
        assert await ours.get_price(S) is None
        assert not list(client.scan_iter(match="ours:*"))
    with pytest.raises(WritesRefused, match="LOCKDOWN"):
        await ours.update_position_on_fill(FillFactory.build(symbol=S))
    await ours.close()
    await others.close()


async def test_aggressive_serves_no_price_above_fifty_milliseconds(manager: CacheManager) -> None:
    await manager.push_price(quote())
    assert await manager.get_price(S) is not None
    await asyncio.sleep(0.051)
    manager.set_operating(OperatingState.AGGRESSIVE)
    assert await manager.get_price(S) is None


@pytest.mark.parametrize(("explicit", "served"), [(None, False), (600_000, True)])
async def test_defensive_serves_no_position_above_its_bound(source: Source, explicit: int | None, served: bool) -> None:
    """In DEFENSIVE a position older than the default bound is read anew. An explicit bound replaces the default."""
    config = patient(defensive_position_ttl_ms=explicit)
    time_now = time.monotonic()
    async with CacheManager(config, source.loaders, cache=MemoryCache()) as manager:
        source.elsewhere(1)
        manager.position_committed(position(1), time_now - 1.5)
        await manager.aside.settle()
        manager.set_operating(OperatingState.DEFENSIVE)
        assert await manager.get_position(S) == position(1)
        assert source.reads == (0 if served else 1)


async def test_the_counters_are_an_event(source: Source) -> None:
    events: list[CacheEvent] = []
    async with CacheManager(patient(), source.loaders, cache=MemoryCache(), on_event=events.append) as manager:
        await manager.get_position(S)
        manager.record_metrics()
    assert (events[0].name, events[0].priority) == ("METRIC_RECORD", 3)
    assert events[0].detail["misses"] == 1


async def test_a_listener_that_fails_does_not_make_the_cache_fail(source: Source) -> None:
    def broken(_: CacheEvent) -> None:
        raise RuntimeError

    async with CacheManager(patient(), source.loaders, cache=MemoryCache(), on_event=broken) as manager:
        manager.record_metrics()
        assert not manager.is_circuit_open()


# With the real book


async def test_a_fill_is_booked_first_and_cached_after_its_commit(database_url: URL, redis_url: str) -> None:
    book_ = Database(database_url)
    config = patient(url=redis_url)
    async with (
        book_,
        bootstrap.cache_manager(config, book_) as manager,
        bootstrap.cache_manager(config, book_) as other,
    ):
        assert await settled(manager, manager.get_position(S)) is None
        booked = await manager.update_position_on_fill(FillFactory.build(symbol=S))
        assert await manager.get_position(S) == booked.position
        assert await other.get_position(S) == booked.position
        assert other.get_stats().hits == 1
        async with book_.reader() as reader:
            assert await reader.positions.find_position(S) == booked.position
        async with book_.transaction() as uow:
            await uow.risk_configs.upsert_limit("max_qty", Decimal(5))
            await uow.strategies.upsert_parameters("s1", {"edge": Decimal("0.1"), "names": ["a", 1]})
        seen = await manager.precheck(S, "main", "s1")
        assert seen.risk is not None
        assert dict(seen.risk.limits) == {"max_qty": Decimal(5)}
        assert seen.strategy is not None
        assert dict(seen.strategy.parameters) == {"edge": Decimal("0.1"), "names": ["a", 1]}


async def test_own_bookings_are_never_followed_by_older_positions(database_url: URL, redis_url: str) -> None:
    """Every way of booking in this process is followed by a read of the cached position."""
    config = patient(url=redis_url)
    async with (
        Database(database_url) as book_,
        bootstrap.cache_manager(config, book_) as manager,
        FillWriter(book_) as writer,
    ):
        first = FillFactory.build(symbol=S, execution_id="first")
        ways: list[Callable[[], Awaitable[Any]]] = [
            lambda: manager.update_position_on_fill(first),
            lambda: writer.record_fill(FillFactory.build(symbol=S)),
            lambda: book_.run(lambda uow: uow.ledger.record_fill(FillFactory.build(symbol=S))),
            lambda: book_.run(lambda uow: uow.ledger.record_fills(FillFactory.build_batch(3, symbol=S))),
            lambda: book_.run(lambda uow: uow.ledger.reverse_fill(reversal)),
        ]
        reversal = Reversal(timestamp=NOW, broker=first.broker, execution_id="bust", reverses="first")
        for book_it in ways:
            await manager.get_position(S)
            await book_it()
            found = await manager.get_position(S)
            async with book_.reader() as reader:
                assert found == await reader.positions.find_position(S)
            await manager.aside.settle()
            entry = await manager.cache.lookup(KEY)
            assert isinstance(entry, Entry)
            assert found is not None
            assert entry.version == position_version(found)


@pytest.mark.parametrize("way", ["transaction", "group", "alone"])
async def test_commit_of_unknown_outcome_fences_older_positions(proxy: Proxy, redis_url: str, way: str) -> None:
    """The answer to a COMMIT is lost. Afterwards no older position is served, for every way of booking."""
    async with (
        Database(proxy.url) as book_,
        bootstrap.cache_manager(patient(url=redis_url), book_) as manager,
        FillWriter(book_) as writer,
    ):
        for _ in range(2 if way == "alone" else 1):
            await writer.record_fill(FillFactory.build(symbol=S))
        before = await settled(manager, manager.get_position(S))
        assert await manager.get_position(S) == before
        proxy.cut_at(b"COMMIT" if way == "transaction" else b"qts_commit", when="after")
        with pytest.raises(OutcomeUnknown):
            if way == "transaction":
                async with book_.transaction() as uow:
                    await uow.ledger.record_fill(FillFactory.build(symbol=S))
            elif way == "group":
                lost = (writer.record_fill(FillFactory.build(symbol=S)) for _ in range(2))
                for one in await asyncio.gather(*lost, return_exceptions=True):
                    assert isinstance(one, BaseException)
                    raise one
            else:
                await writer.record_fill(FillFactory.build(symbol=S))
        found = await manager.get_position(S)
        assert found is not None
        assert found.qty == before.qty + (20 if way == "group" else 10)


async def test_position_changed_by_no_booking_is_read_by_everyone(database_url: URL, redis_url: str) -> None:
    """A rebuild changes a position without a booking. Managers of both processes read it anew."""
    async with (
        Database(database_url) as book_,
        Database(database_url) as elsewhere,
        bootstrap.cache_manager(patient(url=redis_url), book_) as manager,
        bootstrap.cache_manager(patient(url=redis_url), elsewhere) as other,
    ):
        await manager.update_position_on_fill(FillFactory.build(symbol=S))
        async with elsewhere.transaction() as uow:  # no cache is notified of it
            await uow.connection.exec_driver_sql("UPDATE positions SET qty = 77, updated_at = clock_timestamp()")
        manager.position_changed("main", S)
        await manager.aside.settle()
        damaged = await settled(other, other.get_position(S))
        assert damaged.qty == 77
        async with book_.transaction() as uow:
            await uow.positions.mark(S, Decimal(5), NOW)
        await manager.aside.settle()
        for one in (manager, other):
            valued = await settled(one, one.get_position(S))
            assert (valued.qty, valued.mark_price) == (77, 5)
        async with book_.transaction() as uow:
            await uow.positions.restore_positions()
        await manager.aside.settle()
        for one in (manager, other):
            assert (await settled(one, one.get_position(S))).qty == 10
        # And it is cached again.
        hits = other.get_stats().hits
        assert await other.get_position(S) is not None
        assert other.get_stats().hits == hits + 1


async def test_bust_before_its_fill_is_in_the_cached_position(database_url: URL, redis_url: str) -> None:
    """A bust that waited is applied with its fill, and the cached position includes it."""
    async with (
        Database(database_url) as book_,
        bootstrap.cache_manager(patient(url=redis_url), book_) as manager,
    ):
        fill = FillFactory.build(symbol=S, execution_id="late")
        reversal = Reversal(timestamp=NOW, broker=fill.broker, execution_id="early", reverses="late")
        await book_.run(lambda uow: uow.ledger.reverse_fill(reversal))
        await manager.update_position_on_fill(fill)
        found = await manager.get_position(S)
        assert found is not None
        assert found.qty == 0


async def test_fills_go_through_a_writer_where_there_is_one(database_url: URL, redis_url: str) -> None:
    async with (
        Database(database_url) as book_,
        FillWriter(book_) as writer,
        bootstrap.cache_manager(patient(url=redis_url), book_, writer=writer) as manager,
    ):
        booked = await asyncio.gather(
            *(manager.update_position_on_fill(FillFactory.build(symbol=S)) for _ in range(20))
        )
        newest = max((one.position for one in booked), key=lambda one: one.last_ledger_id)
        assert await manager.get_position(S) == newest
        await manager.aside.settle()
        assert await manager.get_position(S) == newest
        assert newest.qty == 200


@pytest.mark.parametrize("state", [SafetyState.FAIL, SafetyState.LOCKDOWN])
async def test_in_fail_and_lockdown_the_database_is_read_only_too(
    database_url: URL, redis_url: str, state: SafetyState
) -> None:
    async with (
        Database(database_url) as book_,
        bootstrap.cache_manager(patient(url=redis_url), book_) as manager,
        FillWriter(book_) as writer,
    ):
        with pytest.raises(WritesRefused, match=state):
            async with book_.transaction() as uow:
                await uow.ledger.record_fill(FillFactory.build(symbol=S))
                # The transaction under way is not committed any more.
                await manager.set_safety(state)
        with pytest.raises(WritesRefused, match="read-only"):
            await writer.record_fill(FillFactory.build(symbol=S))
        with pytest.raises(WritesRefused, match="read-only"):
            await book_.run(lambda uow: uow.risk_configs.upsert_limit("max_qty", Decimal(5)))
        assert await manager.get_position(S) is None
        await manager.aside.settle()
        with redis.Redis.from_url(redis_url, legacy_responses=False) as client:
            assert client.dbsize() == 0
        await manager.set_safety(SafetyState.NORMAL)
        await writer.record_fill(FillFactory.build(symbol=S))
        assert (await manager.get_position(S)) is not None


async def test_a_fill_that_is_rolled_back_never_reaches_the_cache(database_url: URL, redis_url: str) -> None:
    async with (
        Database(database_url) as book_,
        bootstrap.cache_manager(patient(url=redis_url), book_) as manager,
    ):
        await manager.update_position_on_fill(FillFactory.build(symbol=S))
        before = await manager.get_position(S)
        with pytest.raises(RuntimeError):
            async with book_.transaction() as uow:
                await uow.ledger.record_fill(FillFactory.build(symbol=S))
                raise RuntimeError
        assert await manager.get_position(S) == before


# Settings


def test_the_settings_make_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "HOST": "cache", "PASSWORD": "secret", "SENTINELS": "a:1, b:2", "SENTINEL_MASTER": "m",
        "SENTINEL_USERNAME": "watcher", "SENTINEL_PASSWORD": "word",
        "PREFIX": "qts:", "NEAR_ENTRIES": "100", "RISK_TTL_MS": "7", "DEFENSIVE_POSITION_TTL_MS": "5000",
    }  # fmt: skip
    with monkeypatch.context() as patch:
        for name, value in given.items():
            patch.setenv(f"QTS_REDIS_{name}", value)
        config = bootstrap.cache_config(load_settings())
    assert (config.host, config.password, config.sentinels) == ("cache", "secret", (("a", 1), ("b", 2)))
    assert (config.sentinel_username, config.sentinel_password) == ("watcher", "word")
    assert (config.prefix, config.near_entries, config.sentinel_master) == ("qts:", 100, "m")
    assert (config.max_connections, config.socket_timeout_seconds, config.connect_timeout_seconds) == (50, 0.1, 0.5)
    assert (config.breaker_threshold, config.breaker_recovery_seconds) == (5, 60)
    assert (config.ttl(CacheType.RISK), config.ttl(CacheType.POSITION, OperatingState.DEFENSIVE)) == (7, 5000)
    plain = bootstrap.cache_config(Settings())
    assert {kind: plain.ttl(kind) for kind in CacheType} == {kind: CacheConfig().ttl(kind) for kind in CacheType}


@pytest.mark.parametrize(
    "values",
    [
        {"prefix": "a{b}"},
        {"prefix": "a*"},
        {"ttl_ms": {CacheType.PRICE: 0}},
        {"socket_timeout_seconds": 0},
        {"sentinel_master": "m"},
        {"cluster": True, "db": 1},
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        CacheConfig(**values)


def test_ttls_are_those_of_the_contract() -> None:
    config = CacheConfig()
    assert {kind.name: config.ttl(kind) for kind in CacheType} == {
        "PRICE": 100, "POSITION": 1000, "ORDERBOOK": 50, "RISK": 5000, "ORDER": 60_000, "STRATEGY": 60_000,
    }  # fmt: skip
    assert config.ttl(CacheType.PRICE, OperatingState.AGGRESSIVE) == 50
    assert config.ttl(CacheType.POSITION, OperatingState.DEFENSIVE) == 1000
