"""Unusual orders of calls: loads that ask for themselves, states as text, closed managers, edited keys."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import itertools
import threading
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pytest
import pytest_asyncio
import redis
from hypothesis import given
from hypothesis import strategies as st

from qts_data import bootstrap
from qts_data.cache import CacheAccess, CacheManager, MemoryCache, cached, version_text
from qts_data.contracts import BookLevel, CacheConfig, CacheEvent, CacheType, OrderBook, OrderState, SafetyState
from qts_data.errors import CacheClosed, ConfigurationError, InvalidRecord, WritesRefused
from qts_data.repositories import Database
from tests.fixtures.cache_rows import NOW, Source, patient, position, quote
from tests.fixtures.factories import FillFactory
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

S = "005930"
BOUND_SECONDS = 30.0


@pytest.fixture
def source() -> Source:
    return Source()


@pytest_asyncio.fixture(params=["memory", "redis"])
async def manager(request: pytest.FixtureRequest, source: Source) -> AsyncIterator[CacheManager]:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    cache = MemoryCache() if request.param == "memory" else None
    async with CacheManager(patient(url=url), source.loaders, cache=cache) as made:
        yield made


@pytest.fixture
def access(manager: CacheManager) -> CacheAccess:
    return CacheAccess(manager.aside, "t:")


# Loads that ask for their own key


class Graph:
    """Values made of other values: each load asks for the names of `edges`, down to a depth."""

    def __init__(self, cache: CacheAccess | None, edges: dict[str, tuple[str, ...]]) -> None:
        self.cache = cache
        self.edges = edges
        self.loads = 0

    @cached(CacheType.STRATEGY, key=lambda name: (name, "graph"))
    async def find(self, name: str, depth: int = 2) -> list[str]:
        self.loads += 1
        await asyncio.sleep(0)
        if depth:
            await asyncio.gather(*(self.find(other, depth - 1) for other in self.edges.get(name, ())))
        return [name]


names = st.sampled_from("abc")
asked = st.lists(st.tuples(names, st.none() | st.integers(0, 5)), min_size=1, max_size=4)


@given(edges=st.dictionaries(names, st.lists(names, max_size=2).map(tuple)), asks=asked)
def test_loads_that_ask_for_each_other_always_end(
    edges: dict[str, tuple[str, ...]], asks: list[tuple[str, int | None]]
) -> None:
    """Loads of several tasks ask for each other crosswise. Values are as without a cache, also after cancellations."""

    async def ask(graph: Graph, name: str, cancel_after: int | None) -> None:
        task = asyncio.ensure_future(graph.find(name))
        if cancel_after is not None:
            for _ in range(cancel_after):
                await asyncio.sleep(0)
            task.cancel()
        async with asyncio.timeout(BOUND_SECONDS):
            await asyncio.wait([task])
        assert task.cancelled() or task.result() == [name]

    async def work() -> None:
        async with CacheManager(patient(), Source().loaders, cache=MemoryCache()) as made:
            graph = Graph(CacheAccess(made.aside), edges)
            await asyncio.gather(*(ask(graph, *one) for one in asks))

    asyncio.run(work())


class Base:
    def __init__(self, cache: CacheAccess) -> None:
        self.cache = cache

    @cached(CacheType.RISK, key=lambda name: name)
    async def find(self, name: str) -> list[str]:
        return [name]

    @cached(CacheType.RISK, key=lambda name: (name, "endless"))
    async def endless(self, name: str) -> str:
        return await self.endless(name)


class Child(Base):
    @cached(CacheType.RISK, key=lambda name: name)
    async def find(self, name: str) -> list[str]:
        return [*await super().find(name), "child"]


async def test_a_cached_override_may_call_super_by_the_same_key(access: CacheAccess) -> None:
    async with asyncio.timeout(BOUND_SECONDS):
        assert await Child(access).find("a") == ["a", "child"]
        await access.aside.settle()
        assert await Child(access).find("a") == ["a", "child"]


async def test_a_load_without_an_end_is_refused(access: CacheAccess) -> None:
    async with asyncio.timeout(BOUND_SECONDS):
        with pytest.raises(ConfigurationError, match=r"asks for t:risk:\{a\}:endless again"):
            await Base(access).endless("a")


async def test_a_key_of_the_manager_too_does_not_wait_for_itself(source: Source, redis_url: str) -> None:
    class Reader:
        cache: CacheAccess | None = None

        @cached(CacheType.POSITION, key=lambda symbol, account: symbol if account == "main" else (symbol, account))
        async def find(self, symbol: str, account: str) -> Any:
            return await source.position(symbol, account)

    reader = Reader()
    source.elsewhere(1)
    loaders = dataclasses.replace(source.loaders, position=reader.find)
    async with CacheManager(patient(url=redis_url), loaders) as manager:
        reader.cache = CacheAccess(manager.aside)
        async with asyncio.timeout(BOUND_SECONDS):
            assert await manager.get_position(S) == position(1)


# Values that the codec refuses, and the key function


class Opaque:
    """A value that nothing can copy."""


async def test_value_refused_by_the_codec_is_never_shared(access: CacheAccess) -> None:
    class Repository:
        cache = access
        hold = asyncio.Event()
        loads = 0

        @cached(CacheType.STRATEGY, key=lambda kind: (kind, "refused"))
        async def find(self, kind: str) -> Any:
            self.loads += 1
            await self.hold.wait()
            tables = defaultdict(list, {"a": [1]})
            return {"tuple": ([1], [2]), "set": {1}, "table": tables, "opaque": Opaque()}[kind]

    repository = Repository()
    for kind in ("tuple", "set", "table", "opaque"):
        repository.loads = 0
        repository.hold.clear()
        tasks = [asyncio.ensure_future(repository.find(kind)) for _ in range(5)]
        await eventually(lambda: repository.loads > 0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert repository.loads == 1
        repository.hold.set()
        found = await asyncio.gather(*tasks)
        assert len({id(one) for one in found}) == 5
        assert repository.loads == (5 if kind == "opaque" else 1)
        if kind == "tuple":
            assert len({id(one[0]) for one in found}) == 5
        if kind != "opaque":
            assert all(one == found[0] for one in found)


async def test_the_key_function_gets_bound_arguments(access: CacheAccess) -> None:
    class Repository:
        cache = access
        loads = 0

        @cached(CacheType.STRATEGY, key=lambda symbol, account: (symbol, account, "x"))
        async def both(self, symbol: str, account: str = "main") -> int:
            assert symbol + account
            self.loads += 1
            return self.loads

        @cached(CacheType.STRATEGY, key=lambda s: (s, "y"))
        async def first(self, symbol: str, *, fresh: bool = False) -> int:
            assert symbol or fresh
            self.loads += 1
            return self.loads

        @cached(CacheType.STRATEGY, key=lambda account: (account, "z"))
        async def by_name(self, symbol: str, account: str = "main") -> int:
            assert symbol + account
            self.loads += 1
            return self.loads

    repository: Any = Repository()
    ways: list[Any] = [
        lambda: repository.both("a"),
        lambda: repository.both("a", "main"),
        lambda: repository.both("a", account="main"),
        lambda: repository.both(account="main", symbol="a"),
    ]
    for way in ways:
        assert await way() == 1
        await access.aside.settle()
    assert await repository.both("a", "second") == 2
    assert await repository.by_name("a") == 3
    await access.aside.settle()
    assert await repository.by_name(symbol="b") == 3
    for wrong in (repository.both, lambda: repository.both("a", b=1), lambda: repository.both("a", "b", "c")):
        with pytest.raises(TypeError):
            await cast("Any", wrong)()


def test_a_wrong_key_function_is_refused_where_it_is_written() -> None:
    with pytest.raises(ConfigurationError, match="wants 2 arguments, and the method has 1"):

        class Repository:
            cache: CacheAccess | None = None

            @cached(CacheType.STRATEGY, key=lambda one, other: (one, other))
            async def find(self, name: str) -> str:
                return name


async def test_wrong_uses_of_cached_are_refused_by_a_sentence(access: CacheAccess) -> None:
    class Repository:
        cache: Any = access

        @cached(CacheType.STRATEGY, key=lambda number: number)
        async def find(self, number: Any) -> Any:
            return number

    repository = Repository()
    wrongs: list[Any] = [1, None, [], (), ("a", 1), b"a"]
    for wrong in wrongs:
        with pytest.raises(ConfigurationError, match="returns a text or a tuple of texts"):
            await repository.find(wrong)
    repository.cache = access.aside
    with pytest.raises(ConfigurationError, match="by a CacheAccess"):
        await repository.find("a")
    for kind in ("STRATEGY", "", None):
        with pytest.raises(InvalidRecord, match="is none of price, pos"):
            cached(cast("Any", kind), key=str)
        with pytest.raises(InvalidRecord, match="is none of price, pos"):
            await access.invalidate(cast("Any", kind), "a")
    for ttl in (1.5, True, 0, 10**30, "5"):
        with pytest.raises(ConfigurationError, match="whole number"):
            cached(CacheType.STRATEGY, key=str, ttl_ms=cast("Any", ttl))
        with pytest.raises(ConfigurationError, match="whole number"):
            await access.invalidate(CacheType.STRATEGY, "a", ttl_ms=cast("Any", ttl))


async def test_versioned_values_are_cached_again_after_an_invalidation(access: CacheAccess) -> None:
    class Repository:
        cache = access
        loads = 0

        @cached(CacheType.POSITION, key=lambda name: (name, "v"), version=version_text, ttl_ms=60_000)
        async def find(self, name: str) -> int | None:
            assert name
            self.loads += 1
            return None if self.loads == 1 else 7

    repository = Repository()
    assert await repository.find("a") is None
    for round_ in range(1, 4):
        await access.invalidate(CacheType.POSITION, "a", "v")
        await asyncio.sleep(0.01)
        for _ in range(5):
            assert await repository.find("a") == 7
            await access.aside.settle()
        assert repository.loads == 1 + round_


# States


async def test_states_may_be_texts_and_wrong_ones_are_refused(manager: CacheManager, source: Source) -> None:
    source.elsewhere(1)
    await manager.get_position(S)
    await manager.aside.settle()
    await manager.set_safety("LOCKDOWN")
    assert manager.safety is SafetyState.LOCKDOWN
    assert not await manager.cache.get("pos:{005930}")
    with pytest.raises(WritesRefused, match="LOCKDOWN"):
        await manager.push_price(quote())
    for wrong in ("FAILED", "lockdown", "", None, 3):
        with pytest.raises(InvalidRecord, match="is none of NORMAL, WARNING, FAIL, LOCKDOWN"):
            await manager.set_safety(cast("Any", wrong))
        with pytest.raises(InvalidRecord, match="is none of AGGRESSIVE, BALANCED, DEFENSIVE"):
            manager.set_operating(cast("Any", wrong))
    assert manager.safety is SafetyState.LOCKDOWN
    manager.set_operating("AGGRESSIVE")
    await manager.set_safety("NORMAL")
    assert await manager.push_price(quote())
    await asyncio.sleep(0.051)
    assert await manager.get_price(S) is None
    with pytest.raises(AttributeError):
        manager.safety = SafetyState.FAIL  # type: ignore[misc]


# Closed managers


async def test_fifty_closed_managers_leave_nothing_behind(database_url: URL, redis_url: str) -> None:
    async with Database(database_url) as database:
        config = patient(url=redis_url)
        for _ in range(50):
            async with bootstrap.cache_manager(config, database) as manager:
                await manager.get_price(S)
        await database.run(lambda uow: uow.ledger.record_fill(FillFactory.build(symbol=S)))
        with redis.Redis.from_url(redis_url, decode_responses=True, legacy_responses=False) as client:
            await eventually(lambda: not [one for one in client.client_list() if one["name"] == "qts_data"])
        calls: list[Any] = [
            lambda: manager.get_position(S),
            lambda: manager.push_price(quote()),
            lambda: manager.precheck(S, "main", "s"),
            lambda: manager.update_position_on_fill(FillFactory.build(symbol=S)),
            manager.risk_changed,
            manager.warm_up,
        ]
        for call in calls:
            with pytest.raises(CacheClosed, match="stays closed; make another"):
                await call()
        with pytest.raises(CacheClosed):
            await manager.cache.get("k")
        assert not (await manager.health_check()).healthy
        await manager.close()


async def test_a_manager_does_not_lift_the_fail_of_another(database_url: URL, redis_url: str) -> None:
    async with Database(database_url) as database:
        config = patient(url=redis_url)
        one, other = (bootstrap.cache_manager(config, database) for _ in range(2))
        await one.set_safety("FAIL")
        await other.set_safety("FAIL")
        await other.set_safety("NORMAL")
        database.refuse_writes(None)
        await other.close()
        await one.close()
        with pytest.raises(WritesRefused, match="FAIL"):
            await database.run(lambda uow: uow.ledger.record_fill(FillFactory.build(symbol=S)))
        await one.set_safety("NORMAL")
        await database.run(lambda uow: uow.ledger.record_fill(FillFactory.build(symbol=S)))


# Many changes


async def test_many_changed_orders_do_not_switch_positions_off(source: Source) -> None:
    events: list[CacheEvent] = []
    config = patient(ttl_ms={CacheType.ORDER: 86_400_000})
    async with CacheManager(config, source.loaders, cache=MemoryCache(), on_event=events.append) as manager:
        source.elsewhere(1)
        await manager.get_position(S)
        await manager.aside.settle()
        for number in range(100_001):
            manager.aside.changed(f"ord:{{{number}}}", "1")
        assert [(event.name, event.detail["keys"]) for event in events] == [("CACHE_CROWDED", "ord")]
        for _ in range(5):
            assert await manager.get_position(S) == position(1)
        assert manager.get_stats().hits == 5
        order = OrderState(
            order_id="new", symbol=S, account="main", side="BUY", qty=Decimal(1), filled_qty=Decimal(0), status="NEW",
            updated_at=NOW,
        )  # fmt: skip
        assert await manager.push_order(order)
        assert await manager.get_order("new") == order


# Ages


def book(at: dt.datetime) -> OrderBook:
    return OrderBook(symbol=S, bids=(BookLevel(Decimal(1), Decimal(1)),), asks=(), quoted_at=at)


async def test_a_price_lives_from_its_source_and_its_age_is_given(source: Source, redis_url: str) -> None:
    ttls = {CacheType.PRICE: 2_000, CacheType.ORDERBOOK: 2_000}
    async with CacheManager(patient(url=redis_url, ttl_ms=ttls), source.loaders) as manager:
        old = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=30)
        assert await manager.push_price(quote(at=old))
        assert await manager.push_orderbook(book(old))
        assert await manager.get_price(S) is None
        assert await manager.get_orderbook(S) is None
        seen = await manager.precheck(S, "main", "s")
        assert seen.quote is None
        assert seen.quote_age_seconds is not None
        assert seen.quote_age_seconds >= 30
        age = await manager.get_price_age(S)
        assert age is not None
        assert age >= 30
        assert manager.get_stats().too_old == 4
        assert await manager.push_price(quote())
        seen = await manager.precheck(S, "main", "s")
        assert seen.quote is not None
        assert seen.quote.age_seconds == seen.quote_age_seconds
        assert await manager.get_price_age("unknown") is None


async def test_records_stamped_far_ahead_displace_nothing(source: Source, redis_url: str) -> None:
    """A price published by a process with a wider bound is not served either."""
    ttls = {CacheType.PRICE: 60_000, CacheType.ORDERBOOK: 60_000}
    async with (
        CacheManager(patient(url=redis_url, ttl_ms=ttls), source.loaders) as manager,
        CacheManager(patient(url=redis_url, ttl_ms=ttls, most_ahead_ms=86_400_000), source.loaders) as trusting,
    ):
        here = dt.datetime.now(dt.UTC)
        ahead = here + dt.timedelta(hours=1)
        assert await manager.push_price(quote("5", at=here))
        assert await manager.push_orderbook(book(here))
        assert not await manager.push_price(quote(at=ahead))
        assert not await manager.push_orderbook(book(ahead))
        assert manager.get_stats().ahead == 2
        price, seen = await manager.get_price(S), await manager.precheck(S, "main", "s")
        assert price is not None
        assert seen.quote is not None
        assert price.value.price == seen.quote.value.price == Decimal(5)
        assert await manager.get_orderbook(S) is not None
        assert await trusting.push_price(quote(at=ahead))
        assert await trusting.push_orderbook(book(ahead))
        assert await manager.get_price(S) is None
        assert await manager.get_orderbook(S) is None
        assert (await manager.precheck(S, "main", "s")).quote is None
        assert manager.get_stats().ahead == 5


async def test_record_pushed_again_does_not_become_younger(source: Source, redis_url: str) -> None:
    ttls = {CacheType.PRICE: 60_000, CacheType.ORDERBOOK: 60_000}
    async with CacheManager(patient(url=redis_url, ttl_ms=ttls, most_ahead_ms=60_000), source.loaders) as manager:
        ahead = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=30)
        assert await manager.push_price(quote(at=ahead))
        assert await manager.push_orderbook(book(ahead))
        before = [await manager.get_price(S), await manager.get_orderbook(S)]
        assert not await manager.push_price(quote(at=ahead))
        assert not await manager.push_orderbook(book(ahead))
        after = [await manager.get_price(S), await manager.get_orderbook(S)]
        for one, two in zip(before, after, strict=True):
            assert one is not None
            assert two is not None
            assert two.age_seconds >= one.age_seconds
        assert manager.get_stats().refused == 2
        # Another record with the same stamp is new.
        assert await manager.push_price(quote("7", at=ahead))


# Counters


async def test_writes_do_not_count_as_reads(source: Source) -> None:
    config = patient(url="redis://127.0.0.1:1/0", breaker_threshold=1)
    async with CacheManager(config, source.loaders) as manager:
        for _ in range(5):
            assert not await manager.push_price(quote())
        assert manager.get_stats().hit_rate == 0.0
        assert manager.get_stats().unanswered == 0
        await manager.precheck(S, "main", "s")
        await manager.get_price(S)
        # A precheck reads five keys: the limits of the account, and those of all accounts.
        assert manager.get_stats().unanswered == 6
    async with CacheManager(patient(), source.loaders, cache=MemoryCache()) as manager:
        await manager.push_price(quote())
        assert await manager.get_price(S) is not None
        await manager.set_safety("LOCKDOWN")
        await manager.risk_changed()
        assert manager.get_stats().skipped == 1
        assert manager.get_stats().hit_rate == 1.0


# Keys edited by hand


async def test_a_copy_under_another_key_is_a_miss(source: Source, redis_url: str) -> None:
    source.elsewhere(1)
    async with CacheManager(patient(url=redis_url), source.loaders) as manager:
        await manager.push_price(quote())
        await manager.push_orderbook(book(dt.datetime.now(dt.UTC)))
        await manager.precheck(S, "main", "s1")
        await manager.get_position("none")
        await manager.aside.settle()
        with redis.Redis.from_url(redis_url, decode_responses=True, legacy_responses=False) as client:
            for kind, end in itertools.product(("pos", "price", "risk", "strat", "book"), ("", ":bid", ":ask")):
                client.copy(f"{kind}:{{{S}}}{end}", f"{kind}:{{other}}{end}", replace=True)
            client.copy(f"pos:{{{S}}}", f"pos:{{{S}}}:second")
            client.copy("risk:{main}", "risk:{other}")
            client.copy("strat:{s1}", "strat:{other}")
            client.copy("pos:{none}", "pos:{held}")
            # Even where the entry names the other key.
            client.hset("pos:{other}", "_key", "pos:{other}")
        source.elsewhere(5, "held")
        assert await manager.get_position("other") is None
        assert await manager.get_position(S, "second") is None
        assert await manager.get_position("held") == position(5, "held")
        assert await manager.get_price("other") is None
        assert await manager.get_orderbook("other") is None
        risk, strategy = await manager.get_risk("other"), await manager.get_strategy("other")
        assert (risk and risk.account, strategy and strategy.strategy_id) == ("other", "other")
        assert manager.get_stats().foreign == 1
        await manager.aside.settle()
        # And each is replaced by the right one.
        reads = source.reads
        assert await manager.get_position(S, "second") is None
        assert source.reads == reads


async def test_a_side_of_a_book_that_was_evicted_is_not_empty(source: Source, redis_url: str) -> None:
    async with CacheManager(patient(url=redis_url), source.loaders) as manager:
        await manager.push_orderbook(book(dt.datetime.now(dt.UTC)))
        assert await manager.get_orderbook(S) is not None
        with redis.Redis.from_url(redis_url, legacy_responses=False) as client:
            client.delete(f"book:{{{S}}}:bid")
            assert await manager.get_orderbook(S) is None
            client.zadd(f"book:{{{S}}}:bid", {"1:1": 1})
            assert await manager.get_orderbook(S) is None


# Event loops


def test_the_manager_goes_on_in_the_next_event_loop(redis_url: str, database_url: URL) -> None:
    async def read(database: Database, manager: CacheManager) -> Decimal:
        booked = await manager.update_position_on_fill(FillFactory.build(symbol=S))
        found = await manager.get_position(S)
        assert found == booked.position
        assert await manager.push_price(quote())
        assert await manager.get_price(S) is not None
        await database.dispose()
        return found.qty

    for near in (0, 10):
        database = Database(database_url)
        manager = bootstrap.cache_manager(patient(url=redis_url, near_entries=near), database)
        held = [asyncio.run(read(database, manager)) for _ in range(3)]
        assert held[2] - held[1] == held[1] - held[0] > 0
        assert manager.get_stats().errors == 0
        asyncio.run(manager.close())
    with redis.Redis.from_url(redis_url, decode_responses=True, legacy_responses=False) as client:
        asyncio.run(eventually(lambda: not [one for one in client.client_list() if one["name"] == "qts_data"]))


async def test_a_loop_of_another_thread_is_refused_at_once(manager: CacheManager) -> None:
    await manager.get_price(S)
    caught: list[BaseException] = []

    async def use() -> None:
        for call in (manager.get_price(S), manager.push_price(quote()), manager.get_risk()):
            with pytest.raises(ConfigurationError, match="make a manager for each loop") as error:
                await cast("Any", call)
            caught.append(error.value)

    thread = threading.Thread(target=lambda: asyncio.run(use()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert len(caught) == 3


# Configurations

wholes = st.sampled_from(["port", "db", "max_connections", "breaker_threshold", "near_entries"])
seconds = st.sampled_from(["socket_timeout_seconds", "connect_timeout_seconds", "breaker_recovery_seconds"])
wrong_numbers = st.sampled_from([1.5, True, "5", None, float("nan"), float("inf"), -1, 10**30])


@given(wholes | st.just("defensive_position_ttl_ms"), wrong_numbers.filter(lambda value: value is not None))
def test_value_that_is_not_a_whole_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="whole number"):
        CacheConfig(**{name: value})


@given(seconds, st.sampled_from(["5", None, True, float("nan"), float("inf"), -1]))
def test_seconds_that_are_no_duration_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        CacheConfig(**{name: value})


@given(st.sampled_from([*CacheType]), wrong_numbers)
def test_ttl_that_is_not_a_whole_number_is_refused(kind: CacheType, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"the TTL of {kind.name} must be a whole number"):
        CacheConfig(ttl_ms={kind: value})


def test_ttls_may_be_named_by_text_and_wrong_names_are_refused() -> None:
    given_: Any = {"price": 7}
    config = CacheConfig(ttl_ms=given_)
    given_["price"] = 0
    assert config.ttl(CacheType.PRICE) == 7
    with pytest.raises(ConfigurationError, match="'PRICE', which is none of price, pos"):
        CacheConfig(ttl_ms=cast("Any", {"PRICE": 7}))
