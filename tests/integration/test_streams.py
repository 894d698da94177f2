"""Streams that are left in the middle, and statements beside them: nothing is lost, undone, or waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import itertools
import os
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest
import pytest_asyncio
import sqlalchemy as sa

from qts_data.contracts import OHLCV, LedgerEntry
from qts_data.database.engine import DatabaseConfig
from qts_data.database.pipeline import COMMIT, Pipeline, Statement, driver_connection
from qts_data.errors import DatabaseError
from qts_data.models import DailyBar
from qts_data.repositories import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.engine import URL, Engine

    from qts_data.database.streaming import Stream
    from qts_data.repositories import UnitOfWork

FULL = bool(os.environ.get("QTS_TEST_FULL"))
START = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
END = START + dt.timedelta(days=1)
COUNTS = (10, 25_000, 60_000, 200_000) if FULL else (10, 2_100)
FILLS = 4_100 if FULL else 2_100  # more than a piece of a stream has
_symbols = itertools.count(1)


@pytest_asyncio.fixture
async def market(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


async def add_ticks(database: Database, count: int) -> None:
    microseconds = int(START.timestamp()) * 1_000_000
    ticks = {
        "time": pa.array([microseconds + 1000 * place for place in range(count)], pa.timestamp("us", "UTC")),
        "symbol": ["T"] * count,
        "price": [100 + place % 7 for place in range(count)],
        "volume": [1] * count,
    }
    async with database.transaction() as uow:
        await uow.ticks.ingest(pa.table(ticks))


def fill(symbol: str, execution_id: str) -> LedgerEntry:
    return LedgerEntry(
        timestamp=START, symbol=symbol, market="KRX", side="BUY", qty=Decimal(1), price=Decimal(5), currency="KRW",
        broker="kis", execution_id=execution_id,
    )  # fmt: skip


async def add_fills(database: Database, count: int) -> None:
    async with database.transaction() as uow:
        await uow.ledger.record_fills(
            [replace(fill(f"P{place}", f"first {place}"), strategy_tag="first") for place in range(count)]
        )


# A stream, and the same rows as a list.
STREAMS: dict[str, tuple[Callable[[Any], Stream[Any]], Callable[[Any], Awaitable[list[Any]]]]] = {}


def readable(name: str, opened: Callable[[Any], Stream[Any]], listed: Callable[[Any], Awaitable[list[Any]]]) -> None:
    STREAMS[name] = opened, listed


async def _rows_of_arrow(uow: Any) -> list[Any]:
    return list((await uow.ticks.ticks("T", START, END).as_arrow()).to_pylist())


readable(
    "records", lambda uow: uow.ticks.ticks("T", START, END).stream_records(),
    lambda uow: uow.ticks.ticks("T", START, END).as_records(),
)  # fmt: skip
readable(
    "ticks",
    lambda uow: uow.ticks.stream_ticks("T", START, END),
    lambda uow: uow.ticks.ticks("T", START, END).as_records(),
)
readable("arrow", lambda uow: uow.ticks.ticks("T", START, END).stream_arrow(), _rows_of_arrow)
readable(
    "entries", lambda uow: uow.ledger.stream_entries(strategy_tag="first"),
    lambda uow: uow.ledger.list_entries(strategy_tag="first", limit=10**6),
)  # fmt: skip
readable("positions", lambda uow: uow.positions.stream(), lambda uow: uow.positions.list_positions(limit=10**6))


def flat(items: list[Any]) -> list[Any]:
    return [row for item in items for row in (item.to_pylist() if isinstance(item, pa.RecordBatch) else [item])]


async def by_break(stream: Stream[Any], inside: Callable[[], Awaitable[None]]) -> list[Any]:
    taken = []
    async for item in stream:
        taken.append(item)
        await inside()
        if len(taken) == 3:
            break
    return taken


async def by_return(stream: Stream[Any], inside: Callable[[], Awaitable[None]]) -> list[Any]:
    async for item in stream:
        await inside()
        return [item]
    return []


async def by_exception(stream: Stream[Any], inside: Callable[[], Awaitable[None]]) -> list[Any]:
    taken = []
    with contextlib.suppress(KeyError):
        async for item in stream:
            taken.append(item)
            await inside()
            raise KeyError
    return taken


async def by_cancellation(stream: Stream[Any], inside: Callable[[], Awaitable[None]]) -> list[Any]:
    taken: list[Any] = []
    reached = asyncio.Event()

    async def read() -> None:
        async for item in stream:
            taken.append(item)
            await inside()
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await asyncio.wait([task, asyncio.ensure_future(reached.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert reached.is_set(), "the stream was empty"
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return taken


async def by_garbage_collection(stream: Stream[Any], inside: Callable[[], Awaitable[None]]) -> list[Any]:
    taken = [await anext(stream)]
    circle: list[Any] = [stream]
    circle.append(circle)
    await inside()
    del stream, circle
    gc.collect()
    return taken


async def by_closing(stream: Stream[Any], inside: Callable[[], Awaitable[None]]) -> list[Any]:
    async with contextlib.aclosing(stream) as closing:
        taken = [await anext(closing)]
        await inside()
    return taken


async def by_reading_on(stream: Stream[Any], inside: Callable[[], Awaitable[None]]) -> list[Any]:
    taken: list[Any] = []
    async for item in stream:
        if not taken:
            await inside()
        taken.append(item)
    return taken


WAYS = (by_break, by_return, by_exception, by_cancellation, by_garbage_collection, by_closing, by_reading_on)


async def write_everything(uow: UnitOfWork, symbol: str) -> None:
    """Write a fill, a bar, a row by SQL and one by the ORM; each call writes four rows."""
    name = f"{symbol}.{next(_symbols)}"
    await uow.ledger.record_fill(
        LedgerEntry(
            timestamp=START, account="other", symbol=name, market="KRX", side="BUY", qty=Decimal(1), price=Decimal(5),
            currency="KRW", broker="kis", execution_id=name,
        )
    )  # fmt: skip
    one = Decimal(1)
    await uow.minute_bars.upsert(
        [OHLCV(time=START, symbol=name, source="v", open=one, high=one, low=one, close=one, volume=one, tick_count=1)]
    )
    await uow.connection.execute(
        sa.text("INSERT INTO ohlcv_1d (symbol, time, open, high, low, close, volume) VALUES (:s, :t, 1, 1, 1, 1, 1)"),
        {"s": name, "t": START},
    )
    uow.session.add(DailyBar(symbol=f"{name}.orm", time=START, open=one, high=one, low=one, close=one, volume=one))
    await uow.flush()


async def rows_written(database: Database, symbol: str) -> int:
    async with database.reader() as reader:
        found = await reader.connection.scalar(
            sa.text(
                "SELECT (SELECT count(*) FROM t_ledger WHERE symbol LIKE :s) + (SELECT count(*) FROM ohlcv_1d "
                "WHERE symbol LIKE :s) + (SELECT count(*) FROM ohlcv_1m_vendor WHERE symbol LIKE :s)"
            ),
            {"s": f"{symbol}.%"},
        )
    return int(found or 0)


@pytest.mark.parametrize("count", COUNTS)
async def test_streams_left_in_any_way_undo_nothing(market: Database, count: int) -> None:
    """Each way x each stream x {transaction, savepoint}, with four kinds of writes before, inside and after."""
    await add_ticks(market, count)
    await add_fills(market, min(count, FILLS))
    for name, (opened, listed) in STREAMS.items():
        for way, in_savepoint in itertools.product(WAYS, (False, True)):
            symbol, calls = f"{name}.{way.__name__}.{in_savepoint}", 2
            async with asyncio.timeout(60), market.transaction() as uow:
                await write_everything(uow, symbol)
                expected = await listed(uow)

                async def inside(uow: UnitOfWork = uow, symbol: str = symbol) -> None:
                    nonlocal calls
                    calls += 1
                    await write_everything(uow, symbol)

                async with uow.savepoint() if in_savepoint else contextlib.nullcontext():
                    taken = flat(await way(opened(uow), inside))
                    async with uow.savepoint():
                        await write_everything(uow, symbol)
            assert taken == expected[: len(taken)], symbol
            assert taken
            if way is by_reading_on:
                assert taken == expected, symbol
            assert await rows_written(market, symbol) == 4 * calls, symbol


async def test_streams_left_in_a_reader_leave_it_whole(market: Database) -> None:
    await add_ticks(market, COUNTS[-1])
    await add_fills(market, FILLS)
    for opened, listed in STREAMS.values():
        for way, snapshot in itertools.product(WAYS, (False, True)):
            async with asyncio.timeout(60), market.reader(snapshot=snapshot) as reader:
                expected = await listed(reader)

                async def inside(reader: Any = reader) -> None:
                    assert await reader.ticks.latest(["T"])

                taken = flat(await way(opened(reader), inside))
                assert taken == expected[: len(taken)]
                assert await listed(reader) == expected
                # Nothing of a stream that was left keeps a table in use.
                assert not await reader.connection.scalar(sa.text("SELECT count(*) FROM pg_cursors"))


async def test_streams_give_the_rows_of_their_first_moment(market: Database) -> None:
    """A stream into which its own reader writes ends; another session's commit does not show in its middle."""
    await add_ticks(market, 5_000)
    statement = sa.text(
        "INSERT INTO tick_data (symbol, time, source, seq, price, volume) VALUES ('T', :t, :s, 0, 1, 1)"
    )
    async with market.transaction() as uow, market.transaction() as other:
        # A feed that tick_days does not know, before and behind the first piece.
        for second in (1, 4):
            await uow.connection.execute(statement, {"t": START + dt.timedelta(milliseconds=second * 1000), "s": "new"})
        expected = await uow.ticks.ticks("T", START, END)
        stream = uow.ticks.stream_ticks("T", START, END)
        taken = [await anext(stream)]
        await other.connection.execute(statement, {"t": START + dt.timedelta(seconds=3), "s": "theirs"})
        for source in ("mine", "new"):
            await uow.connection.execute(statement, {"t": START + dt.timedelta(seconds=3), "s": source})
        taken += [tick async for tick in stream]
        assert taken == expected
        assert len(taken) == 5_002
        assert len(await uow.ticks.ticks("T", START, END)) == 5_004


async def test_many_streams_may_be_open_on_one_connection(market: Database) -> None:
    await add_ticks(market, 3_000)
    await add_fills(market, 3_000)
    async with market.reader() as reader:
        ticks = reader.ticks.stream_ticks("T", START, END)
        entries, positions = reader.ledger.stream_entries(), reader.positions.stream()
        seen = 0
        async for _ in ticks:
            await anext(entries)
            await anext(positions)
            seen += 1
        assert seen == 3_000
        for stream in (entries, positions):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


async def test_a_table_can_be_changed_after_a_stream_was_dropped(market: Database) -> None:
    await add_fills(market, FILLS)
    async with market.transaction() as uow:
        async for _ in uow.positions.stream():
            break
        await uow.connection.exec_driver_sql("ALTER TABLE positions ADD COLUMN extra integer")


async def test_a_stream_of_an_ended_transaction_says_so(market: Database) -> None:
    await add_ticks(market, 10_000)
    async with market.reader() as reader:
        stream: Stream[Any] = reader.ticks.stream_ticks("T", START, END)
        await anext(stream)
    async with market.reader() as reader:
        with pytest.raises(DatabaseError, match="the transaction in which this stream began has ended"):
            _ = [tick async for tick in stream]
        await stream.aclose()
        assert len(await reader.ticks.ticks("T", START, END)) == 10_000


async def test_a_stream_of_a_savepoint_rolled_back_says_so(market: Database) -> None:
    """To close such a stream is harmless; to read on is an error of the server, and nothing is committed."""
    await add_ticks(market, 10_000)
    for reads_on in (False, True):
        symbol = f"savepoint.{reads_on}"
        with pytest.raises(DatabaseError) if reads_on else contextlib.nullcontext():
            async with market.transaction() as uow:
                stream: Stream[Any] = uow.ticks.stream_ticks("T", START, END)
                with contextlib.suppress(KeyError):
                    async with uow.savepoint():
                        await anext(stream)
                        raise KeyError
                await write_everything(uow, symbol)
                if reads_on:
                    _ = [tick async for tick in stream]
                await stream.aclose()
                await write_everything(uow, symbol)
        assert await rows_written(market, symbol) == (0 if reads_on else 8)


async def test_a_slow_reader_is_not_cut_off(database_url: URL) -> None:
    """The server would wait less long for an idle transaction than the reader pauses between two pieces."""
    config = DatabaseConfig(idle_transaction_timeout_seconds=0.2)
    async with Database(database_url) as database:
        await add_ticks(database, 40_000)
        await add_fills(database, FILLS)
    async with Database(database_url, config) as database:
        for opened, wanted in ((STREAMS["records"][0], 40_000), (STREAMS["entries"][0], FILLS)):
            async with database.reader() as reader:
                seen = 0
                async for _ in opened(reader):
                    seen += 1
                    if seen % (wanted // 3) == 1:
                        # Longer than the server would wait for an idle transaction.
                        await asyncio.sleep(0.25)
                assert seen == wanted


async def test_a_slow_reader_at_default_settings_gets_all(market: Database) -> None:
    """In full: a million ticks, and a minute to read them."""
    count, seconds = (1_000_000, 60) if FULL else (20_000, 0)
    await add_ticks(market, count)
    async with market.reader() as reader:
        seen = 0
        async for batch in reader.ticks.ticks("T", START, END).stream_arrow():
            await asyncio.sleep(seconds * len(batch) / count)
            seen += len(batch)
    assert seen == count


async def test_a_commit_answered_with_rollback_raises(market: Database, database: Engine) -> None:
    """The engine's own transactions, a session's, a blocking engine's, and a pipeline's."""
    failing, message = "SELECT 1 / 0", "answered COMMIT with ROLLBACK"
    async with market.engine.connect() as connection:
        with contextlib.suppress(sa.exc.DBAPIError):
            await connection.exec_driver_sql(failing)
        with pytest.raises(sa.exc.InternalError, match=message):
            await connection.commit()
        # It can be used again.
        await connection.rollback()
        await connection.exec_driver_sql("SELECT 1")
        await connection.commit()
    with pytest.raises(sa.exc.InternalError, match=message):
        async with market.engine.begin() as connection:
            with contextlib.suppress(sa.exc.DBAPIError):
                await connection.exec_driver_sql(failing)
    with (
        pytest.raises(sa.exc.InternalError, match=message),
        database.begin() as blocking,
        contextlib.suppress(sa.exc.DBAPIError),
    ):
        blocking.exec_driver_sql(failing)
    async with market.engine.connect() as connection:
        driver = await driver_connection(connection)
        failed = Pipeline(driver)
        failed.add(Statement("fails", failing))
        with pytest.raises(psycopg.errors.DivisionByZero):
            await failed.run()
        ending = Pipeline(driver)
        ending.add(COMMIT)
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            await ending.run()
