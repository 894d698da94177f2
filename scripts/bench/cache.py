"""How fast is the hot tier, against a bare socket and against other clients with the same reads?

    python scripts/bench/cache.py [seconds a measurement] [rounds]

Starts a Redis of its own, on TCP and on a unix socket. The floor is an asyncio protocol that writes a packed HGETALL
and counts the bytes of the answer: without parser, timeout or decoding. All others end with a `Position`, decoded by
the same code from the same fields.

The measurements take turns in rounds. p50 and p99 are over all rounds, and the ratios are those of the p50. Objects
made before a measurement are frozen (`gc.freeze`), as an engine does after its start.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import gc
import platform
import statistics
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import aiocache
import cashews
import dogpile.cache
import redis.asyncio
import uvloop
from aiocache.serializers import JsonSerializer
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from qts_data.cache import Breaker, CacheAccess, CacheManager, Loaders, cached
from qts_data.cache.aside import CacheAside, Counters, Plan
from qts_data.cache.codec import POSITION
from qts_data.cache.keys import Keys
from qts_data.cache.manager import position_version
from qts_data.cache.memory import MemoryCache
from qts_data.cache.wire import pack
from qts_data.contracts import CacheConfig, CacheType, Position, Quote, RiskLimits, StrategyParameters
from qts_data.contracts.config import ALL_ACCOUNTS
from tests.fixtures.redis_process import RedisCluster, RedisProcess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qts_data.contracts import BookedFill

Ask: TypeAlias = "Callable[[], Awaitable[Any]]"

SYMBOL: Final = "005930"
LONG_MS: Final = 3_600_000
TASKS: Final = 1000
CALLS: Final = 20_000
NOW: Final = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
HELD: Final = Position(
    account="main", symbol=SYMBOL, market="KRX", currency="KRW", qty=Decimal("120.00000000"),
    avg_price=Decimal("71512.50000000"), cost_basis=Decimal("8581500.00000000"),
    realized_pnl=Decimal("1520000.25000000"), mark_price=Decimal("71600.00000000"),
    exposure_value=Decimal("8592000.00000000"), exposure_pct=Decimal("0.085920"),
    unrealized_pnl=Decimal("10500.00000000"), marked_at=NOW, last_ledger_id=4711, updated_at=NOW,
)  # fmt: skip
LIMITS: Final = RiskLimits(account="main", limits={f"limit_{n}": Decimal("100000.5") for n in range(6)})
PARAMETERS: Final = StrategyParameters(
    strategy_id="s1", parameters={"fast": 5, "slow": 20, "edge": Decimal("0.0010"), "on": True}
)


class Floor(asyncio.Protocol):
    """A bare socket that speaks RESP."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._missing = 0
        self._future: asyncio.Future[None]
        self.came = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the open connection."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of the answer."""
        self._missing -= len(data)
        if self._missing <= 0:
            if self._missing < 0:
                self.came += data
            self._future.set_result(None)

    def ask(self, payload: bytes, length: int) -> asyncio.Future[None]:
        """Send a request and wait for that many bytes."""
        self._future = self._loop.create_future()
        self._missing = length
        self._transport.write(payload)
        return self._future

    async def length_of(self, payload: bytes) -> int:
        """Return the number of bytes of the answer."""
        self.came.clear()
        self.ask(payload, 0)
        await asyncio.sleep(0.1)
        return len(self.came)

    def close(self) -> None:
        """Close the connection."""
        self._transport.abort()


async def absent(*_: str) -> None:
    """Fail: a read that reaches the database spoils the measurement."""
    raise SystemExit("a read fell through to the database")


async def no_book(*_: Any) -> BookedFill:
    """Fail: this benchmark books nothing."""
    raise NotImplementedError


def manager_of(config: CacheConfig) -> CacheManager:
    """Make a manager whose reads must not reach the database."""
    return CacheManager(config, Loaders(position=absent, risk=absent, strategy=absent, record_fill=no_book))


def config_of(server: RedisProcess, path: str | None = None, **values: Any) -> CacheConfig:
    """Make a config with TTLs longer than the run, and defaults otherwise."""
    values = {"url": server.url if path is None else f"unix://{path}"} | values
    return CacheConfig(ttl_ms=dict.fromkeys(CacheType, LONG_MS), **values)


async def fill(manager: CacheManager) -> None:
    """Write the values that the measurements read."""
    aside, keys = manager.aside, Keys()
    started = time.monotonic()
    plan: Plan[Any] = Plan(codec=POSITION, ttl_ms=LONG_MS, version=position_version)
    await aside.store(keys.position(SYMBOL), plan, HELD, started)
    for number in range(TASKS):
        other = dataclasses.replace(HELD, symbol=f"S{number}")
        await aside.store(keys.position(other.symbol), plan, other, started)
    # The lifetime of a price begins at its own time.
    at = dt.datetime.now(dt.UTC)
    await manager.push_price(Quote(symbol=SYMBOL, price=Decimal(71600), quoted_at=at, bid=Decimal(1), ask=Decimal(2)))

    async def risk(account: str) -> RiskLimits:
        return dataclasses.replace(LIMITS, account=account)

    async def strategy(_: str) -> StrategyParameters:
        return PARAMETERS

    loading = CacheManager(
        CacheConfig(ttl_ms=dict.fromkeys(CacheType, LONG_MS)),
        Loaders(position=absent, risk=risk, strategy=strategy, record_fill=no_book),
        cache=manager.cache,
    )
    await loading.warm_up(accounts=["main"], strategies=["s1"])


# Measuring


async def latencies(ask: Ask, seconds: float) -> list[float]:
    """Return the microseconds of each call, one after the other."""
    for _ in range(50):
        await ask()
    found = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        await ask()
        found.append((time.perf_counter() - started) * 1e6)
    return found


def settle_garbage() -> None:
    """Exclude existing objects from collections: a full collection takes longer than a thousand reads."""
    gc.collect()
    gc.freeze()


async def take_turns(asks: dict[str, Ask], seconds: float, rounds: int) -> dict[str, tuple[float, float]]:
    """Return p50 and p99 of each, in microseconds."""
    samples: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(rounds):
        for name, ask in asks.items():
            settle_garbage()
            samples[name] += await latencies(ask, seconds)
    found = {}
    for name, values in samples.items():
        values.sort()
        found[name] = values[len(values) // 2], values[int(len(values) * 0.99)]
    return found


def show(title: str, found: dict[str, tuple[float, float]], *against: str) -> None:
    """Print a table with the ratio of each p50 to that of others."""
    print(f"\n{title:50} {'p50 us':>8} {'p99 us':>8}  " + "  ".join(f"/ {name}" for name in against))
    for name, (p50, p99) in found.items():
        ratios = "  ".join(f"{p50 / found[other][0]:{len(other) + 2}.2f}" for other in against)
        print(f"  {name:48} {p50:8.1f} {p99:8.1f}  {ratios}")


# The measurements


def redis_py(server: RedisProcess, path: str | None = None, **values: Any) -> redis.asyncio.Redis:
    """Make redis-py's client with decoded texts, as ours has."""
    where: dict[str, Any] = {"port": server.port} if path is None else {"unix_socket_path": path}
    return redis.asyncio.Redis(**where, decode_responses=True, legacy_responses=False, **values)


def tuned(server: RedisProcess, path: str | None = None, **values: Any) -> redis.asyncio.Redis:
    """Make redis-py's fastest client: one connection, no timeouts, no retries."""
    values |= {"single_connection_client": True, "socket_timeout": None, "retry": Retry(NoBackoff(), 0)}
    return redis_py(server, path, **values)


def read_with(client: redis.asyncio.Redis) -> Ask:
    """Make a reader by HGETALL and decoding."""
    key = Keys().position(SYMBOL)

    async def read() -> Position:
        found: Any = await client.hgetall(key)
        return POSITION.decode(found)

    return read


async def one_read(server: RedisProcess, path: str, seconds: float, rounds: int) -> None:
    """Measure reads of a cached position, one after the other."""
    key = Keys().position(SYMBOL)
    payload = pack("HGETALL", key)
    loop = asyncio.get_running_loop()
    _, floor = await loop.create_connection(Floor, "127.0.0.1", server.port)
    _, unix_floor = await loop.create_unix_connection(Floor, path)
    length = await floor.length_of(payload)
    ours, ours_unix = manager_of(config_of(server)), manager_of(config_of(server, path))
    fields = POSITION.encode(HELD)
    clients = [
        redis_py(server),
        tuned(server),
        tuned(server, path),
        redis.asyncio.Redis(
            connection_pool=redis.asyncio.ConnectionPool(
                connection_class=Connection, port=server.port, decode_responses=True, parser_class=_python_parser()
            ),
            legacy_responses=False,
        ),
    ]
    aio = aiocache.RedisCache(endpoint="127.0.0.1", port=server.port, serializer=JsonSerializer())
    await aio.set("aiocache", fields, ttl=3600)
    cash = cashews.Cache()
    cash.setup(f"redis://127.0.0.1:{server.port}/0", client_side=False)
    await cash.set("cashews", fields, expire="1h")
    region = dogpile.cache.make_region().configure(
        "dogpile.cache.redis", arguments={"host": "127.0.0.1", "port": server.port}, expiration_time=3600
    )
    region.set("dogpile", fields)

    async def read_aiocache() -> Position:
        return POSITION.decode(await aio.get("aiocache"))

    async def read_cashews() -> Position:
        found: Any = await cash.get("cashews")
        return POSITION.decode(found)

    async def read_dogpile() -> Position:
        found: Any = region.get("dogpile")  # dogpile blocks the loop
        return POSITION.decode(found)

    asks: dict[str, Ask] = {
        "floor": lambda: floor.ask(payload, length),
        "floor, unix socket": lambda: unix_floor.ask(payload, length),
        "CacheManager.get_position": lambda: ours.get_position(SYMBOL),
        "CacheManager.get_position, unix socket": lambda: ours_unix.get_position(SYMBOL),
        "RedisCache.get (fields, not decoded)": lambda: ours.cache.get(key),
        "redis-py": read_with(clients[0]),
        "redis-py, tuned": read_with(clients[1]),
        "redis-py, tuned, unix socket": read_with(clients[2]),
        "redis-py without hiredis": read_with(clients[3]),
        "aiocache": read_aiocache,
        "cashews": read_cashews,
        "dogpile.cache (blocks the loop)": read_dogpile,
    }
    show("one read of a position", await take_turns(asks, seconds, rounds), "floor", "redis-py")
    for client in clients:
        await client.aclose()
    await aio.close()
    await cash.close()
    region.backend.reader_client.close()
    for manager in (ours, ours_unix):
        await manager.close()
    floor.close()
    unix_floor.close()


def _python_parser() -> Any:
    from redis._parsers import _AsyncRESP3Parser  # noqa: PLC0415 - to know what hiredis is worth

    return _AsyncRESP3Parser


async def prechecks(server: RedisProcess, seconds: float, rounds: int) -> None:
    """Measure one read of price, position, limits and parameters."""
    ours = manager_of(config_of(server))
    keys = Keys()
    names = [
        keys.key(CacheType.PRICE, SYMBOL),
        keys.position(SYMBOL),
        keys.key(CacheType.RISK, "main"),
        keys.key(CacheType.STRATEGY, "s1"),
        keys.key(CacheType.RISK, ALL_ACCOUNTS),
    ]
    payload = b"".join(pack("HGETALL", name) for name in names)
    _, floor = await asyncio.get_running_loop().create_connection(Floor, "127.0.0.1", server.port)
    length = await floor.length_of(payload)
    client, fast = redis_py(server), tuned(server)

    def pipeline_of(made: redis.asyncio.Redis) -> Ask:
        async def run() -> Any:
            async with made.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.hgetall(name)
                return await pipeline.execute()

        return run

    link = await ours.cache.link(names[0])  # type: ignore[attr-defined]
    await ours.get_position(SYMBOL)
    script = "local all = {} for i = 1, #KEYS do all[i] = redis.call('HGETALL', KEYS[i]) end return all"
    sha = await link.call(pack("SCRIPT", "LOAD", script))
    as_script = pack("EVALSHA", sha, len(names), *names)
    found = await take_turns(
        {
            "floor": lambda: floor.ask(payload, length),
            "CacheManager.precheck": lambda: ours.precheck(SYMBOL, "main", "s1"),
            "the five HGETALLs by our connection, not decoded": lambda: link.call(payload, 5),
            "one script by our connection, not decoded": lambda: link.call(as_script),
            "pipeline": pipeline_of(client),
            "pipeline, tuned": pipeline_of(fast),
        },
        seconds,
        rounds,
    )
    show("precheck; pipeline = redis-py, not decoded", found, "floor", "pipeline", "pipeline, tuned")
    floor.close()
    await client.aclose()
    await fast.aclose()
    await ours.close()


async def clustered(directory: Path, single: RedisProcess, seconds: float, rounds: int) -> None:
    """Measure a precheck whose five keys are on three masters."""
    cluster = RedisCluster(directory)
    cluster.start()
    try:
        one, three = manager_of(config_of(single)), manager_of(config_of(single, url=cluster.url, cluster=True))
        await fill(three)
        asks: dict[str, Ask] = {
            "precheck, one server": lambda: one.precheck(SYMBOL, "main", "s1"),
            "precheck, cluster of three masters": lambda: three.precheck(SYMBOL, "main", "s1"),
            "position, one server": lambda: one.get_position(SYMBOL),
            "position, cluster of three masters": lambda: three.get_position(SYMBOL),
        }
        show("cluster", await take_turns(asks, seconds, rounds), "precheck, one server")
        for manager in (one, three):
            await manager.close()
    finally:
        cluster.stop()


async def many_tasks(server: RedisProcess, rounds: int) -> None:
    """Measure reads per second of a thousand tasks, and the time of each read."""
    ours = manager_of(config_of(server))
    each = [manager_of(config_of(server)) for _ in range(100)]
    pool = redis.asyncio.Redis(
        connection_pool=redis.asyncio.BlockingConnectionPool(
            port=server.port, decode_responses=True, max_connections=50, timeout=None
        ),
        legacy_responses=False,
    )

    async def by_pool(number: int) -> Any:
        found: Any = await pool.hgetall(Keys().position(f"S{number}"))
        return POSITION.decode(found)

    names = [Keys().position(f"S{number}") for number in range(TASKS)]
    for manager in (ours, *each):
        await manager.get_position(SYMBOL)
    ways: dict[str, Callable[[int], Awaitable[Any]]] = {
        "CacheManager, one connection for all": lambda number: ours.get_position(f"S{number}"),
        "CacheManager, 100 connections": lambda number: each[number % 100].get_position(f"S{number}"),
        "redis-py, pool of 50": by_pool,
        "RedisCache.get, not decoded": lambda number: ours.cache.get(names[number]),
        "redis-py, pool of 50, not decoded": lambda number: pool.hgetall(names[number]),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}

    async def timed(work: Awaitable[Any]) -> float:
        started = time.perf_counter()
        await work
        return time.perf_counter() - started

    for _ in range(rounds + 1):
        for name, way in ways.items():
            settle_garbage()
            started = time.perf_counter()
            for _ in range(5):
                times[name] += await asyncio.gather(*(timed(way(number)) for number in range(TASKS)))
            rates[name].append(5 * TASKS / (time.perf_counter() - started))
    print(
        f"\n{TASKS} concurrent reads, decoded                   {'reads/s':>10} {'p50 ms':>8} {'p99 ms':>8}  / redis-py"
    )
    peer = statistics.median(rates["redis-py, pool of 50"][1:])
    for name, found in rates.items():
        median = statistics.median(found[1:])
        took = sorted(times[name][5 * TASKS :])
        p50, p99 = took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3
        print(f"  {name:46} {median:10,.0f} {p50:8.2f} {p99:8.2f}  {median / peer:6.2f}")
    for manager in (ours, *each):
        await manager.close()
    await pool.aclose()


class Repository:
    """A method with and without the decorator."""

    def __init__(self, cache: CacheAccess | None) -> None:
        self.cache = cache

    async def plain(self, symbol: str) -> Position | None:  # noqa: ARG002
        """Return a value, without the decorator."""
        return HELD

    @cached(CacheType.POSITION, key=lambda symbol: symbol, codec=POSITION, version=position_version, near=True)
    async def find_position(self, symbol: str) -> Position | None:
        """Return a value, with the decorator."""
        return await self.plain(symbol)


async def by_call(ask: Ask) -> float:
    """Return the microseconds of one call that stays inside the process."""
    started = time.perf_counter()
    for _ in range(CALLS):
        await ask()
    return (time.perf_counter() - started) / CALLS * 1e6


def by_step(step: Callable[[], Any]) -> float:
    """Return the microseconds of one call of a function."""
    started = time.perf_counter()
    for _ in range(CALLS):
        step()
    return (time.perf_counter() - started) / CALLS * 1e6


async def in_process(server: RedisProcess, rounds: int) -> None:
    """Measure calls that stay inside the process."""
    near = manager_of(config_of(server, near_entries=1000))
    await near.get_position(SYMBOL)
    aside = CacheAside(MemoryCache(), Breaker(5, 60), keep_seconds=60)
    bare, decorated = Repository(None), Repository(CacheAccess(near.aside))
    breaker, counters = Breaker(5, 60), Counters()
    fields = POSITION.encode(HELD)

    async def nothing() -> None:
        """Do nothing: a guarded call without its guard."""

    def guard() -> None:
        breaker.succeeded(breaker.enter())

    def count() -> None:
        counters.hits += 1

    waits: dict[str, Ask] = {
        "near hit, CacheManager.get_position": lambda: near.get_position(SYMBOL),
        "near hit, by a decorated method": lambda: decorated.find_position(SYMBOL),
        "the same method, decorated, without a cache": lambda: bare.find_position(SYMBOL),
        "the same method, not decorated": lambda: bare.plain(SYMBOL),
        "a call through breaker and statistics": lambda: aside.guarded(nothing),
        "the same call without them": nothing,
    }
    steps: dict[str, Callable[[], Any]] = {
        "breaker, enter and leave": guard,
        "statistics, one counter": count,
        "an empty function": lambda: None,
        "a position decoded": lambda: POSITION.decode(fields),
        "a position encoded": lambda: POSITION.encode(HELD),
    }
    await near.get_position(SYMBOL)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, ask in waits.items():
            found.setdefault(name, []).append(await by_call(ask))
        for name, step in steps.items():
            found.setdefault(name, []).append(by_step(step))
    if near.get_stats().near_hits < CALLS * rounds:
        raise SystemExit("the near cache was not hit")
    print(f"\n{'in the process':50} {'us a call':>8}")
    for name, values in found.items():
        print(f"  {name:48} {statistics.median(values):8.2f}")
    await near.close()


async def measure(server: RedisProcess, path: str, seconds: float, rounds: int) -> None:
    """Run all measurements on the running loop."""
    manager = manager_of(config_of(server))
    await fill(manager)
    await manager.close()
    await one_read(server, path, seconds, rounds)
    await prechecks(server, seconds, rounds)
    with tempfile.TemporaryDirectory() as directory:
        await clustered(Path(directory), server, seconds, rounds)
    await many_tasks(server, rounds)
    await in_process(server, rounds)


def main() -> None:
    """Print the tables, for asyncio's own loop and for uvloop."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/redis.sock"
        server = RedisProcess(Path(directory), "--unixsocket", path)
        server.start()
        try:
            for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
                print(f"\n=== {name}; {platform.machine()}, Python {platform.python_version()}, {rounds} rounds")
                with asyncio.Runner(loop_factory=factory) as runner:
                    runner.run(measure(server, path, seconds, rounds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
