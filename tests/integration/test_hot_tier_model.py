"""Random programs of the hot tier's public calls, against a model of its promises.

Each program runs batches of calls at once, some of them cancelled half way. Meanwhile Redis is emptied, cut off,
killed, made to forget its scripts and edited by hand. Every call ends. No position is older than the commits of its own
process, or than one TTL. No price is older than its life, and no value is of another key. A wrong use raises one of
our errors. `QTS_TEST_PROGRAMS` sets the number of programs.
"""

# ruff: noqa: SLF001, C901 - the test looks for leftovers inside, and a program has many steps

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import time
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qts_data import bootstrap
from qts_data.cache import CacheManager
from qts_data.contracts import BookedFill, BookLevel, CacheType, OrderBook, OrderState
from qts_data.errors import CacheClosed, InvalidRecord, WritesRefused
from qts_data.repositories import Database
from tests.fixtures.cache_rows import Source, patient, quote
from tests.fixtures.factories import FillFactory
from tests.fixtures.redis_process import RedisProcess
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from sqlalchemy.engine import URL

    from qts_data.cache.manager import PositionCommitted
    from qts_data.contracts import LedgerEntry

PROGRAMS: Final = int(os.environ.get("QTS_TEST_PROGRAMS", "25"))
SYMBOLS: Final = ("S0", "S1")
TTL_SECONDS: Final = 0.25
LIFE_SECONDS: Final = 0.3
SLACK_SECONDS: Final = 0.005
BOUND_SECONDS: Final = 60.0


@pytest.fixture(scope="module")
def mortal_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    made = RedisProcess(tmp_path_factory.mktemp("model"))
    made.start()
    yield made
    made.stop()


def edits() -> list[dict[str, str]]:
    """Fields as a person may leave them."""
    deep = "[" * 5_000 + "]" * 5_000
    return [
        {"_exp": "9" * 400},
        {"_at": "9" * 400},
        {"_at": "9" * 15, "_exp": "9" * 15},
        {"_at": "soon"},
        {"_ver": "zzz"},
        {"json": deep},
        {"json": f'{{"symbol": {deep}}}'},
        {"json": "{}"},
        {"v": "2"},
        {"symbol": "S9", "quoted_at": "0001-01-01T00:00:00+14:00"},
        {"_sides": "7:7"},
        {"_gone": "1"},
        {"_none": "1"} | {"_key": "another"},
    ]


EDITS: Final = edits()
symbols = st.sampled_from(SYMBOLS)
keys = st.sampled_from([f"{kind}:{{{name}}}" for kind in ("pos", "price", "book", "ord") for name in SYMBOLS])
states = st.sampled_from(["NORMAL", "WARNING", "FAIL", "LOCKDOWN", "FAILED", "normal", ""])
calls = st.one_of(
    st.tuples(st.sampled_from(["position", "precheck", "price", "book", "order", "fill", "elsewhere"]), symbols),
    st.tuples(st.just("push price"), symbols, st.sampled_from([0.0, 0.2, 10.0])),
    st.tuples(st.sampled_from(["push book", "push order", "risk", "strategy", "committed", "changed"]), symbols),
    st.tuples(st.just("safety"), states),
    st.tuples(st.just("safety"), st.just("NORMAL")),
    st.tuples(st.just("operating"), st.sampled_from(["AGGRESSIVE", "BALANCED", "DEFENSIVE", "SAFE"])),
    st.tuples(st.sampled_from(["flush", "cut", "forget scripts", "kill", "close", "settle"])),
    st.tuples(st.just("edit"), keys, st.sampled_from(EDITS)),
    st.tuples(st.sampled_from(["copy", "rename"]), keys, keys),
    st.tuples(st.sampled_from(["persist", "make text"]), keys),
)
programs = st.lists(
    st.lists(st.tuples(st.integers(0, 1), calls, st.none() | st.integers(0, 6)), min_size=1, max_size=6), max_size=12
)


class Book(Source):
    """The database of both processes, with the time of each commit."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: dict[str, list[tuple[float, int]]] = defaultdict(list)

    def elsewhere(self, version: int, symbol: str = "005930") -> Any:
        found = super().elsewhere(version, symbol)
        self.commits[symbol].append((time.monotonic(), version))
        return found

    async def record(self, entry: LedgerEntry, committed: PositionCommitted) -> BookedFill:
        await asyncio.sleep(0)
        held_at = time.monotonic()
        after = self.elsewhere(self.version(entry.symbol) + 1, entry.symbol)
        committed(after, held_at)
        version = after.last_ledger_id
        return BookedFill(ledger_id=version, realized_pnl=Decimal(0), position=after, duplicate=False)

    def version(self, symbol: str) -> int:
        held = self.rows.get((symbol, "main"))
        return held.last_ledger_id if held else 0

    def needed(self, symbol: str, begun: float) -> int:
        """The oldest version that any process may still serve."""
        return max((v for at, v in self.commits[symbol] if at <= begun - TTL_SECONDS - SLACK_SECONDS), default=0)


class Machine:
    """Two processes with one Redis and one database. The first keeps values near."""

    def __init__(self, server: RedisProcess) -> None:
        self.server = server
        self.source = Book()
        self.known: list[dict[str, int]] = [defaultdict(int), defaultdict(int)]
        self.pushed: set[tuple[str, dt.datetime]] = set()
        self.managers = [self.manager(0), self.manager(1)]

    def manager(self, number: int) -> CacheManager:
        ttls = dict.fromkeys((CacheType.PRICE, CacheType.ORDERBOOK), round(LIFE_SECONDS * 1000))
        config = patient(
            url=self.server.url,
            ttl_ms=ttls | {CacheType.POSITION: round(TTL_SECONDS * 1000)},
            near_entries=0 if number else 100,
            breaker_recovery_seconds=0.0,
            socket_timeout_seconds=5.0,
        )
        return CacheManager(config, self.source.loaders)

    async def run(self, program: list[list[tuple[int, Any, int | None]]]) -> None:
        try:
            for batch in program:
                async with asyncio.timeout(BOUND_SECONDS):
                    await asyncio.gather(*(self.one(*call) for call in batch))
        finally:
            async with asyncio.timeout(BOUND_SECONDS):
                for manager in self.managers:
                    await manager.close()
        await self.is_as_before()

    async def one(self, number: int, call: Any, cancel_after: int | None) -> None:
        """Make one call, and cancel it after some turns of the loop if the program asks for that."""
        task = asyncio.ensure_future(self.checked(number, *call))
        if cancel_after is not None:
            for _ in range(cancel_after):
                await asyncio.sleep(0)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def checked(self, number: int, name: str, *args: Any) -> None:
        manager = self.managers[number]
        try:
            await getattr(self, name.replace(" ", "_"))(number, manager, *args)
        except WritesRefused as error:
            assert "read-only" in str(error)  # noqa: PT017
        except CacheClosed as error:
            assert "make another" in str(error)  # noqa: PT017
            assert manager is not self.managers[number]
        except InvalidRecord as error:
            assert name in {"safety", "operating"}
            assert "is none of" in str(error)  # noqa: PT017

    def require_true(self, number: int, symbol: str, held: Any, begun: float, known: int) -> None:
        version = held.last_ledger_id if held is not None else 0
        assert held is None or (held.symbol, held.account) == (symbol, "main")
        assert version >= known, f"process {number} got {version} of {symbol}, and knew {known}"
        assert version >= self.source.needed(symbol, begun)

    async def position(self, number: int, manager: CacheManager, symbol: str) -> None:
        begun, known = time.monotonic(), self.known[number][symbol]
        self.require_true(number, symbol, await manager.get_position(symbol), begun, known)

    async def precheck(self, number: int, manager: CacheManager, symbol: str) -> None:
        begun, known, at = time.monotonic(), self.known[number][symbol], dt.datetime.now(dt.UTC)
        seen = await manager.precheck(symbol, "main", symbol)
        self.require_true(number, symbol, seen.position, begun, known)
        self.require_price(symbol, seen.quote, at)
        assert seen.risk is not None
        assert seen.risk.account == "main"
        assert seen.strategy is not None
        assert seen.strategy.strategy_id == symbol

    def require_price(self, symbol: str, reading: Any, at: dt.datetime) -> None:
        if reading is not None:
            assert (symbol, reading.value.quoted_at) in self.pushed
            assert reading.value.symbol == symbol
            assert (at - reading.value.quoted_at).total_seconds() <= LIFE_SECONDS
            assert 0 <= reading.age_seconds <= LIFE_SECONDS

    async def price(self, number: int, manager: CacheManager, symbol: str) -> None:  # noqa: ARG002
        at = dt.datetime.now(dt.UTC)
        self.require_price(symbol, await manager.get_price(symbol), at)

    async def push_price(self, number: int, manager: CacheManager, symbol: str, age: float) -> None:  # noqa: ARG002
        made = quote(symbol=symbol, at=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age))
        self.pushed.add((symbol, made.quoted_at))
        await manager.push_price(made)

    async def book(self, number: int, manager: CacheManager, symbol: str) -> None:  # noqa: ARG002
        at = dt.datetime.now(dt.UTC)
        reading = await manager.get_orderbook(symbol, levels=2)
        self.require_price(symbol, reading, at)
        if reading is not None:
            assert [level.price for level in reading.value.bids] == [3, 2]
            assert [level.price for level in reading.value.asks] == [4]

    async def push_book(self, number: int, manager: CacheManager, symbol: str) -> None:  # noqa: ARG002
        bids = tuple(BookLevel(Decimal(price), Decimal(1)) for price in (1, 2, 3))
        at = dt.datetime.now(dt.UTC)
        made = OrderBook(symbol=symbol, bids=bids, asks=(BookLevel(Decimal(4), Decimal(1)),), quoted_at=at)
        self.pushed.add((symbol, at))
        await manager.push_orderbook(made)

    async def order(self, number: int, manager: CacheManager, symbol: str) -> None:  # noqa: ARG002
        found = await manager.get_order(symbol)
        assert found is None or found.order_id == symbol

    async def push_order(self, number: int, manager: CacheManager, symbol: str) -> None:  # noqa: ARG002
        await manager.push_order(
            OrderState(
                order_id=symbol, symbol=symbol, account="main", side="BUY", qty=Decimal(1), filled_qty=Decimal(0),
                status="NEW", updated_at=dt.datetime.now(dt.UTC),
            )
        )  # fmt: skip

    async def risk(self, number: int, manager: CacheManager, symbol: str) -> None:  # noqa: ARG002
        found = await manager.get_risk(symbol)
        assert found is not None
        assert found.account == symbol
        await manager.risk_changed(symbol)

    async def strategy(self, number: int, manager: CacheManager, symbol: str) -> None:  # noqa: ARG002
        found = await manager.get_strategy(symbol)
        assert found is not None
        assert found.strategy_id == symbol

    async def fill(self, number: int, manager: CacheManager, symbol: str) -> None:
        booked = await manager.update_position_on_fill(FillFactory.build(symbol=symbol))
        version = booked.position.last_ledger_id
        self.known[number][symbol] = max(self.known[number][symbol], version)

    async def elsewhere(self, number: int, manager: CacheManager, symbol: str) -> None:  # noqa: ARG002
        self.source.elsewhere(self.source.version(symbol) + 1, symbol)

    async def committed(self, number: int, manager: CacheManager, symbol: str) -> None:
        held = self.source.elsewhere(self.source.version(symbol) + 1, symbol)
        manager.position_committed(held, time.monotonic())
        self.known[number][symbol] = held.last_ledger_id

    async def changed(self, number: int, manager: CacheManager, symbol: str) -> None:
        version = self.source.version(symbol)
        manager.position_changed("main", symbol)
        self.known[number][symbol] = max(self.known[number][symbol], version)

    async def safety(self, number: int, manager: CacheManager, state: str) -> None:  # noqa: ARG002
        await manager.set_safety(state)

    async def operating(self, number: int, manager: CacheManager, state: str) -> None:  # noqa: ARG002
        manager.set_operating(state)

    async def settle(self, number: int, manager: CacheManager) -> None:  # noqa: ARG002
        await manager.aside.settle()

    async def close(self, number: int, manager: CacheManager) -> None:
        if manager is self.managers[number]:
            # For the model it is a new process that has seen no commit.
            self.managers[number] = self.manager(number)
            self.known[number] = defaultdict(int)
        await manager.close()
        with pytest.raises(CacheClosed):
            await manager.get_price("S0")

    async def by_hand(self, *words: Any) -> None:
        with self.server.client() as client, contextlib.suppress(redis.RedisError):
            client.execute_command(*words)

    async def flush(self, *_: Any) -> None:
        await self.by_hand("FLUSHALL")

    async def forget_scripts(self, *_: Any) -> None:
        await self.by_hand("SCRIPT", "FLUSH")

    async def cut(self, *_: Any) -> None:
        self.server.cut()

    async def kill(self, *_: Any) -> None:
        self.server.kill()
        self.server.start()

    async def edit(self, _number: int, _manager: Any, key: str, fields: dict[str, str]) -> None:
        await self.by_hand("HSET", key, *(word for field in fields.items() for word in field))

    async def copy(self, _number: int, _manager: Any, key: str, to: str) -> None:
        await self.by_hand("COPY", key, to, "REPLACE")
        await self.by_hand("COPY", f"{key}:bid", f"{to}:bid", "REPLACE")

    async def rename(self, _number: int, _manager: Any, key: str, to: str) -> None:
        await self.by_hand("RENAME", key, to)

    async def persist(self, _number: int, _manager: Any, key: str) -> None:
        await self.by_hand("PERSIST", key)

    async def make_text(self, _number: int, _manager: Any, key: str) -> None:
        await self.by_hand("SET", key, "text")

    async def is_as_before(self) -> None:
        """Assert that no connection, task, load or token is left."""
        for manager in self.managers:
            assert not manager.aside._background
            assert not manager.aside._loads._flights
            assert not manager.aside._loads._watched
            if manager.aside.near is not None:
                assert not manager.aside.near._tokens
            with pytest.raises(CacheClosed, match="make another"):
                await manager.get_position("S0")
        await eventually(lambda: connections(self.server.url) == 0)


def connections(url: str) -> int:
    """Count our connections to a server."""
    with redis.Redis.from_url(url, decode_responses=True, legacy_responses=False) as client:
        return sum(one["name"] == "qts_data" for one in client.client_list())


@settings(max_examples=PROGRAMS, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=programs)
def test_any_order_of_calls_keeps_every_promise(mortal_redis: RedisProcess, program: Any) -> None:
    with mortal_redis.client() as client:
        client.flushall()

    async def work() -> None:
        await Machine(mortal_redis).run(program)

    asyncio.run(work())


# The database and its managers

MANAGERS: Final = 3
steps = st.one_of(
    st.tuples(st.sampled_from(["open", "close", "fill", "read", "listen", "deafen"]), st.integers(0, MANAGERS - 1)),
    st.tuples(st.sampled_from(["NORMAL", "WARNING", "FAIL", "LOCKDOWN"]), st.integers(0, MANAGERS - 1)),
    st.tuples(st.sampled_from(["refuse", "allow"]), st.just(0)),
)


@settings(max_examples=PROGRAMS, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=st.lists(steps, max_size=20))
def test_managers_of_one_database_leave_it_as_it_was(
    database_url: URL, redis_url: str, program: list[tuple[str, int]]
) -> None:
    """A database refuses writes exactly while any manager, or any other caller, refuses them."""

    async def work() -> None:
        async with Database(database_url) as database:
            await play(database, redis_url, program)

    asyncio.run(work())


async def play(database: Database, redis_url: str, program: list[tuple[str, int]]) -> None:
    managers: dict[int, CacheManager] = {}
    refusing: set[object] = set()
    removals: list[Any] = []
    heard: list[str] = []
    everything: list[CacheManager] = []
    try:
        for step, number in program:
            manager = managers.get(number)
            if step == "open" and manager is None:
                managers[number] = bootstrap.cache_manager(patient(url=redis_url), database)
                everything.append(managers[number])
            elif step == "close" and manager is not None:
                await managers.pop(number).close()
                await manager.close()
            elif step == "listen":
                removals.append(database.on_booked(lambda booked, _: heard.append(booked.position.symbol)))
            elif step == "deafen" and removals:
                remove = removals.pop()
                remove()
                remove()
            elif step in {"refuse", "allow"}:
                database.refuse_writes("the test refuses" if step == "refuse" else None)
                (refusing.add if step == "refuse" else refusing.discard)("test")
            elif step in {"NORMAL", "WARNING", "FAIL", "LOCKDOWN"} and manager is not None:
                await manager.set_safety(step)
                (refusing.add if step in {"FAIL", "LOCKDOWN"} else refusing.discard)(manager)
            elif step == "read" and manager is not None:
                await manager.get_position("S0")
            elif step == "fill":
                await fill(database, refused=bool(refusing), heard=heard, times=len(removals))
            assert len(database._booked) == len(managers) + len(removals)
            assert len(database._changed) == len(managers)
    finally:
        for manager in everything:
            await manager.close()
            await manager.set_safety("NORMAL")  # the one call that a closed manager still serves
        for remove in removals:
            remove()
        database.refuse_writes(None)
    assert not database._booked
    assert not database._changed
    await fill(database, refused=False, heard=heard, times=0)
    await eventually(lambda: connections(redis_url) == 0)


async def fill(database: Database, *, refused: bool, heard: list[str], times: int) -> None:
    before = len(heard)
    booking: Awaitable[Any] = database.run(lambda uow: uow.ledger.record_fill(FillFactory.build(symbol="S0")))
    if refused:
        with pytest.raises(WritesRefused):
            await booking
        assert len(heard) == before
    else:
        await booking
        assert len(heard) == before + times


def test_the_model_finds_a_position_that_is_too_old(mortal_redis: RedisProcess) -> None:
    """The model finds a position that is too old: the programs above can fail."""

    async def work() -> None:
        machine = Machine(mortal_redis)
        machine.known[0]["S0"] = 7
        with pytest.raises(AssertionError, match="knew 7"):
            await machine.run([[(0, ("position", "S0"), None)]])

    asyncio.run(work())
