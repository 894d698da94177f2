"""Writers under calls in any order: every await ends, accepted records are stored, wrong use is refused."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import random
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qts_data.errors import (
    ConfigurationError,
    OutcomeUnknown,
    QtsDataError,
    SpoolInUse,
    TickQueueFull,
    WriterClosed,
    WritesRefused,
)
from qts_data.repositories import Database, IngestReport
from qts_data.writers import Durability, FillWriter, TickWriter
from tests.fixtures.factories import FillFactory, TickFactory
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.engine import URL

    from qts_data.contracts import TickData
    from tests.fixtures.fix_proxy import Proxy

EXAMPLES = int(os.environ.get("QTS_TEST_WRITER_EXAMPLES", "10"))
PATIENCE_SECONDS = 60.0
FAIL = "the engine is in FAIL"
AT = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
FOR_EVER = (dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, tzinfo=dt.UTC))


@pytest_asyncio.fixture
async def market(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def tick(price: int, symbol: str = "005930") -> TickData:
    return TickFactory.build(time=AT, symbol=symbol, price=Decimal(price))


async def prices(database: Database, symbol: str = "005930") -> list[int]:
    async with database.reader() as reader:
        return [int(one.price) for one in await reader.ticks.ticks(symbol, *FOR_EVER)]


@pytest.mark.parametrize("durability", list(Durability))
async def test_safety_fail_is_waited_for_and_ticks_stay(
    market: Database, tmp_path: Path, durability: Durability
) -> None:
    spool = tmp_path if durability is Durability.SPOOLED else None
    async with TickWriter(market, durability=durability, spool=spool, group_seconds=0.001) as writer:
        await writer.write(tick(0))
        market.refuse_writes(FAIL)
        writes = [asyncio.create_task(writer.write(tick(number))) for number in range(1, 11)]
        await eventually(lambda: writer.stats.accepted == 11 and writer.stats.resent > 0)
        assert [write.done() for write in writes] == [durability is not Durability.COMMITTED] * 10
        market.refuse_writes(None)
        await asyncio.gather(*writes)
    assert await prices(market) == list(range(11))


@pytest.mark.parametrize("durability", list(Durability))
async def test_abandon_raises_writer_closed_in_callers(
    proxy: Proxy, market: Database, tmp_path: Path, durability: Durability
) -> None:
    spool = tmp_path if durability is Durability.SPOOLED else None
    async with Database(proxy.url) as away:
        await proxy.stop()
        writer = TickWriter(away, durability=durability, bound=2, spool=spool)
        await writer.start()
        calls = [asyncio.create_task(writer.write(tick(number))) for number in range(4)]
        await eventually(lambda: writer.stats.accepted == 2)
        calls += [asyncio.create_task(call()) for call in (writer.flush, writer.close)]
        await asyncio.sleep(0)
        await writer.abandon()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(end) for end in ends} <= {WriterClosed, type(None)}
        assert isinstance(ends[-1], WriterClosed)
        assert "2 ticks are not in the table" in str(ends[-1])
        await writer.abandon()
        with pytest.raises(WriterClosed):
            await writer.close()
        await proxy.start_again()
    if spool is not None:
        async with TickWriter(market, spool=spool):
            pass
        assert len(await prices(market)) == 2


async def test_group_listener_errors_are_logged_only(market: Database, caplog: pytest.LogCaptureFixture) -> None:
    def cancels(_: IngestReport) -> None:
        raise asyncio.CancelledError

    async def late() -> None:
        raise AssertionError

    async with TickWriter(market, on_group=cancels, group_seconds=0) as writer:
        await writer.write(tick(0))
        await writer.flush()
    async with TickWriter(market, on_group=lambda _: late()) as writer:  # type: ignore[arg-type]
        await writer.write(tick(1))
    assert await prices(market) == [0, 1]
    assert "on_group of live failed" in caplog.text
    assert "on_group of live returned a coroutine" in caplog.text

    async def never(_: IngestReport) -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="on_group is a coroutine function"):
        TickWriter(market, on_group=never)  # type: ignore[arg-type]


async def test_tick_writer_starts_once(market: Database, tmp_path: Path) -> None:
    for spool in (None, tmp_path):
        writer = TickWriter(market, spool=spool)
        with pytest.raises(WriterClosed, match="was not started"):
            await writer.write(tick(0))
        with pytest.raises(WriterClosed, match="was not started"):
            await writer.flush()
        await writer.start()
        with pytest.raises(ConfigurationError, match="is open; a writer is started once"):
            await writer.start()
        await writer.write(tick(0))
        await writer.close()
        await writer.close()
        await writer.flush()
        with pytest.raises(ConfigurationError, match="is closed; a writer is started once"):
            await writer.start()
        with pytest.raises(WriterClosed, match="not open: it is closed"):
            await writer.write(tick(0))
    assert await prices(market) == [0, 0]


async def test_start_refused_may_be_tried_again(market: Database, tmp_path: Path) -> None:
    first, second = (TickWriter(market, spool=tmp_path) for _ in range(2))
    await first.start()
    with pytest.raises(SpoolInUse, match=f"in use by process {os.getpid()}"):
        await second.start()
    await first.abandon()
    await second.start()
    await second.write(tick(1))
    await second.close()
    third = TickWriter(market, spool=tmp_path)
    await third.close()
    with pytest.raises(ConfigurationError, match="is closed"):
        await third.start()
    assert await prices(market) == [1]


_TWO = """
import asyncio, datetime as dt, sys
from decimal import Decimal
from pathlib import Path
from qts_data import TickData
from qts_data.database.engine import parse_url
from qts_data.repositories import Database
from qts_data.writers import Durability, TickWriter
async def main():
    url, spool, symbol, count = sys.argv[1:]
    async with Database(parse_url(url)) as db, TickWriter(
        db, name="two", spool=Path(spool), durability=Durability.SPOOLED
    ) as writer:
        for price in range(int(count)):
            time = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
            await writer.write(TickData(time=time, symbol=symbol, price=Decimal(price), volume=Decimal(1)))
        print("written", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@pytest.mark.parametrize("killed", [False, True])
async def test_second_process_waits_for_the_first(
    market: Database, database_url: URL, tmp_path: Path, *, killed: bool
) -> None:
    url = database_url.render_as_string(hide_password=False)
    first = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _TWO, url, str(tmp_path), "A", "50", stdin=-1, stdout=-1
    )
    assert first.stdout is not None
    assert await first.stdout.readline() == b"written\n"
    with pytest.raises(SpoolInUse, match=f"in use by process {first.pid} on .* since "):
        await TickWriter(market, name="two", spool=tmp_path).start()
    if killed:
        first.kill()
    await first.communicate(b"")
    async with TickWriter(market, name="two", spool=tmp_path, durability=Durability.SPOOLED) as writer:
        for price in range(20):
            await writer.write(tick(price, "B"))
    assert await prices(market, "A") == list(range(50))
    assert await prices(market, "B") == list(range(20))
    assert names(tmp_path) == []


async def test_fill_writer_is_entered_once(market: Database) -> None:
    writer = FillWriter(market)
    with pytest.raises(WriterClosed, match="was not entered"):
        await writer.record_fill(FillFactory.build())
    async with writer:
        with pytest.raises(ConfigurationError, match="is open already; a writer is entered once"):
            await writer.__aenter__()
        await writer.record_fill(FillFactory.build())
    await writer.close()
    with pytest.raises(ConfigurationError, match="is closed; a writer is entered once"):
        await writer.__aenter__()
    with pytest.raises(WriterClosed, match="is closed"):
        await writer.record_fill(FillFactory.build())


async def test_fill_writer_cancelled_raises_in_callers(market: Database) -> None:
    """The task of the writer is cancelled, as when a loop shuts down. No caller is cancelled with it."""
    writer = FillWriter(market, max_group=1, max_waiting=3)
    await writer.__aenter__()
    calls = [asyncio.create_task(writer.record_fill(FillFactory.build())) for _ in range(6)]
    await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if task.get_name() == "fill writer":
            await asyncio.sleep(0)
            task.cancel()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(end) for end in ends} <= {WriterClosed, OutcomeUnknown}
    with pytest.raises(WriterClosed, match="was cancelled"):
        await writer.close()
    await eventually(lambda: "Current Checked out connections: 0" in market.engine.pool.status())


async def test_fill_listeners_that_raise_harm_no_caller(market: Database, caplog: pytest.LogCaptureFixture) -> None:
    def cancels(*_: object) -> None:
        raise asyncio.CancelledError

    market.on_booked(cancels)
    async with FillWriter(market) as writer:
        for _ in range(3):
            await writer.record_fill(FillFactory.build())
    assert caplog.text.count("a listener failed") == 3


CALLS = ["start", "write", "write", "write", "burst", "flush", "close", "abandon", "fail", "normal", "cancel", "turn"]


async def _run_calls(  # noqa: C901 - one branch a call
    market: Database, spool: Path, durability: Durability, calls: list[str], seed: int
) -> None:
    """Make the calls in the given order, each in a task of its own, then end and check every tick."""
    chance = random.Random(seed)
    symbol = f"S{seed}"
    writer = TickWriter(
        market, name=f"w{seed}", durability=durability, spool=spool, group_size=3, bound=6, group_seconds=0.001
    )
    running: list[asyncio.Task[Any]] = []
    writes: dict[int, asyncio.Task[Any]] = {}
    for call in calls:
        if call in {"write", "burst"}:
            for _ in range(1 if call == "write" else 5):
                writes[len(writes)] = asyncio.create_task(writer.write(tick(len(writes), symbol)))
        elif call in {"fail", "normal"}:
            market.refuse_writes(FAIL if call == "fail" else None)
        elif call == "cancel" and (running or writes):
            chance.choice([*running, *writes.values()]).cancel()
        elif call == "turn":
            await asyncio.sleep(chance.choice([0, 0, 0.002, 0.02]))
        elif call != "cancel":
            running.append(asyncio.create_task(getattr(writer, call)()))
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    market.refuse_writes(None)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with contextlib.suppress(QtsDataError):
            await writer.close()
        ends = await asyncio.gather(*running, *writes.values(), return_exceptions=True)
        # The next writer sends all ticks that are left.
        async with TickWriter(market, name=f"w{seed}", spool=spool):
            pass
    for end in ends:
        assert end is None or isinstance(end, QtsDataError | asyncio.CancelledError), repr(end)
    stored = await prices(market, symbol)
    taken = [number for number, write in writes.items() if not write.cancelled() and write.exception() is None]
    assert len(stored) == len(set(stored))
    if durability is Durability.QUEUED and "abandon" in calls:
        taken = []  # as its error says
    assert set(taken) <= set(stored)
    refused = [
        number
        for number, write in writes.items()
        if not write.cancelled() and isinstance(write.exception(), TickQueueFull | ConfigurationError)
    ]
    if durability is Durability.SPOOLED:
        assert not set(refused) & set(stored)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    durability=st.sampled_from(list(Durability)),
    calls=st.lists(st.sampled_from(CALLS), max_size=14).map(lambda calls: ["start", *calls]),
    late=st.booleans(),
    seed=st.integers(0, 2**40),
)
async def test_tick_writer_calls_in_any_order_end(
    market: Database, durability: Durability, calls: list[str], late: bool, seed: int
) -> None:
    if late:
        calls.append(calls.pop(0))
    before = asyncio.all_tasks()
    with tempfile.TemporaryDirectory() as spool:
        await _run_calls(market, Path(spool), durability, calls, seed)
        assert names(Path(spool)) == []
    assert asyncio.all_tasks() == before
    assert "Current Checked out connections: 0" in market.engine.pool.status()


FILL_CALLS = ["enter", "fill", "fill", "burst", "close", "fail", "normal", "cancel", "turn"]


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(calls=st.lists(st.sampled_from(FILL_CALLS), max_size=14), seed=st.integers(0, 2**40), late=st.booleans())
async def test_fill_writer_calls_in_any_order_end(market: Database, calls: list[str], seed: int, late: bool) -> None:
    chance = random.Random(seed)
    writer = FillWriter(market, max_group=3, max_waiting=4)
    symbol = f"F{seed}"
    running: list[asyncio.Task[Any]] = []
    fills: list[asyncio.Task[Any]] = []
    listeners = len(market._booked)  # noqa: SLF001 - the number must be the same afterwards

    def fill(_: int) -> asyncio.Task[Any]:
        entry = FillFactory.build(symbol=symbol, side="BUY", qty=Decimal(1), price=Decimal(1))
        return asyncio.create_task(writer.record_fill(entry), name=entry.execution_id)

    do: dict[str, Callable[[], object]] = {
        "enter": lambda: running.append(asyncio.create_task(writer.__aenter__())),
        "close": lambda: running.append(asyncio.create_task(writer.close())),
        "fill": lambda: fills.append(fill(0)),
        "burst": lambda: fills.extend(map(fill, range(6))),
        "fail": lambda: market.refuse_writes(FAIL),
        "normal": lambda: market.refuse_writes(None),
        "cancel": lambda: (running or fills) and chance.choice([*running, *fills]).cancel(),
    }
    before = asyncio.all_tasks()
    for call in calls if late else ["enter", *calls]:
        if call == "turn":
            await asyncio.sleep(chance.choice([0, 0, 0.002, 0.02]))
        else:
            do[call]()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    market.refuse_writes(None)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await writer.close()
        ends = await asyncio.gather(*running, *fills, return_exceptions=True)
    for end in ends:
        wrong = isinstance(end, BaseException) and not isinstance(end, QtsDataError | asyncio.CancelledError)
        assert not wrong, repr(end)
    refused = [
        one for one in fills if not one.cancelled() and isinstance(one.exception(), WritesRefused | WriterClosed)
    ]
    booked = [one for one in fills if not one.cancelled() and one.exception() is None]
    async with market.reader() as reader:
        found = {one.entry.execution_id for one in await reader.ledger.list_entries(symbol=symbol)}
    assert {one.get_name() for one in booked} <= found
    assert not {one.get_name() for one in refused} & found
    assert len(booked) <= len(found) <= len(fills) - len(refused)
    assert asyncio.all_tasks() == before
    assert len(market._booked) == listeners  # noqa: SLF001
    assert "Current Checked out connections: 0" in market.engine.pool.status()
