"""Streams left in the middle, and statements beside them: no write is lost or undone, and no call hangs."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import pytest_asyncio
import sqlalchemy as sa

from qts_data.database.engine import DatabaseConfig
from qts_data.database.pipeline import COMMIT, Pipeline, Statement, driver_connection
from qts_data.errors import DatabaseError
from qts_data.repositories import Database
from tests.fixtures.effort import FULL, amount
from tests.fixtures.streams import (
    END,
    START,
    STREAMS,
    WAYS,
    add_fills,
    add_ticks,
    by_reading_on,
    flat,
    write_everything,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.engine import URL, Engine

    from qts_data.database.streaming import Stream

FILLS = amount(2_100, 4_100)  # more than a piece of a stream has
BLOCKS = ("transaction", "savepoint", "reader", "snapshot")


@pytest_asyncio.fixture
async def market(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


async def left_in_a_transaction(
    market: Database, stream: str, way: Callable[..., Any], name: str, expected: list[Any], *, in_savepoint: bool
) -> tuple[str, int]:
    """Leave a stream between writes of every kind. Returns the rows to count and the number of writes."""
    opened = STREAMS[stream].opened
    symbol, calls = f"{stream}.{way.__name__}.{in_savepoint}.{name}", 2
    async with asyncio.timeout(60), market.transaction() as uow:
        await write_everything(uow, symbol)

        async def inside() -> None:
            nonlocal calls
            calls += 1
            await write_everything(uow, symbol)

        async with uow.savepoint() if in_savepoint else contextlib.nullcontext():
            taken = flat(await way(opened(uow, name), inside))
            async with uow.savepoint():
                await write_everything(uow, symbol)
    _require_beginning(taken, expected, way)
    return symbol, calls


async def left_in_a_reader(
    market: Database, stream: str, way: Callable[..., Any], name: str, expected: list[Any], *, snapshot: bool
) -> None:
    async with asyncio.timeout(60), market.reader(snapshot=snapshot) as reader:

        async def inside() -> None:
            assert await reader.ticks.latest([name])

        _require_beginning(flat(await way(STREAMS[stream].opened(reader, name), inside)), expected, way)
        assert len(await STREAMS[stream].listed(reader, name)) == len(expected)
        # A stream that was left does not keep its table in use.
        assert not await reader.connection.scalar(sa.text("SELECT count(*) FROM pg_cursors"))


def _require_beginning(taken: list[Any], expected: list[Any], way: Callable[..., Any]) -> None:
    assert taken
    assert taken == (expected if way is by_reading_on else expected[: len(taken)])


async def rows_written(database: Database) -> dict[str, int]:
    """Count the rows of `write_everything` for each symbol."""
    everything = " UNION ALL ".join(
        f"SELECT symbol FROM {table}" for table in ("t_ledger", "ohlcv_1d", "ohlcv_1m_vendor")
    )
    async with database.reader() as reader:
        found = await reader.connection.execute(
            sa.text(
                f"SELECT regexp_replace(symbol, '[.][0-9]+([.]orm)?$', '') AS symbol, count(*) AS total "
                f"FROM ({everything}) "
                "WHERE symbol LIKE '%.%' GROUP BY 1"
            )
        )
        return {row.symbol: row.total for row in found}


def cases(counts: tuple[int, ...]) -> list[tuple[str, Callable[..., Any], str, int]]:
    """The cases cover each pair of way, stream, block and count. The full form has every combination."""
    pairs = list(itertools.product(STREAMS, WAYS))
    if FULL:
        return [(*pair, block, count) for pair in pairs for block in BLOCKS for count in counts]
    return [
        (*pair, BLOCKS[place % len(BLOCKS)], counts[place // len(BLOCKS) % len(counts)])
        for place, pair in enumerate(pairs)
    ]


def test_cases_of_streams_cover_every_two_together() -> None:
    covered = cases((10, 2_100))
    values = (list(STREAMS), list(WAYS), list(BLOCKS), [10, 2_100])
    for one, other in itertools.combinations(range(4), 2):
        assert {(case[one], case[other]) for case in covered} == set(itertools.product(values[one], values[other]))


@pytest.mark.soak
@pytest.mark.parametrize("counts", [(10,), (25_000,), (60_000,), (200_000,)] if FULL else [(10, 2_100)])
async def test_streams_left_in_any_way_undo_nothing(market: Database, counts: tuple[int, ...]) -> None:
    """Each way x each stream x each block, with four kinds of writes before, inside and after."""
    for count in counts:
        await add_ticks(market, count, f"T{count}")
        await add_fills(market, min(count, FILLS), f"T{count}")
    async with market.reader() as reader:
        expected = {
            (stream, count): await STREAMS[stream].listed(reader, f"T{count}") for stream in STREAMS for count in counts
        }
    written = {}
    for stream, way, block, count in cases(counts):
        name, rows = f"T{count}", expected[stream, count]
        if block in {"reader", "snapshot"}:
            await left_in_a_reader(market, stream, way, name, rows, snapshot=block == "snapshot")
        else:
            in_savepoint = block == "savepoint"
            symbol, calls = await left_in_a_transaction(market, stream, way, name, rows, in_savepoint=in_savepoint)
            written[symbol] = 4 * calls
    assert await rows_written(market) == written


async def test_streams_give_the_rows_of_their_first_moment(market: Database) -> None:
    """A stream ends although its reader adds rows. Commits of other sessions do not show in it."""
    await add_ticks(market, 5_000)
    statement = sa.text(
        "INSERT INTO tick_data (symbol, time, source, seq, price, volume) VALUES ('T', :t, :s, 0, 1, 1)"
    )
    async with market.transaction() as uow, market.transaction() as other:
        # A feed without a row in tick_days, before and after the first piece.
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
    await add_ticks(market, 2_100)
    await add_fills(market, 2_100)
    async with market.reader() as reader:
        ticks = reader.ticks.stream_ticks("T", START, END)
        entries, positions = reader.ledger.stream_entries(), reader.positions.stream()
        seen = 0
        async for _ in ticks:
            await anext(entries)
            await anext(positions)
            seen += 1
        assert seen == 2_100
        for stream in (entries, positions):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


async def test_a_table_can_be_changed_after_a_stream_was_dropped(market: Database) -> None:
    await add_fills(market, FILLS)
    async with market.transaction() as uow:
        async for _ in uow.positions.stream():
            break
        await uow.connection.exec_driver_sql("ALTER TABLE positions ADD COLUMN extra integer")


async def test_stream_of_an_ended_transaction_names_its_end(market: Database) -> None:
    await add_ticks(market, 2_100)
    async with market.reader() as reader:
        stream: Stream[Any] = reader.ticks.stream_ticks("T", START, END)
        await anext(stream)
    async with market.reader() as reader:
        with pytest.raises(DatabaseError, match="the transaction in which this stream began has ended"):
            _ = [tick async for tick in stream]
        await stream.aclose()
        assert len(await reader.ticks.ticks("T", START, END)) == 2_100


async def test_stream_of_a_savepoint_rolled_back_names_its_end(market: Database) -> None:
    """Closing such a stream is harmless. Reading on raises, and nothing is committed."""
    await add_ticks(market, 2_100)
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
        assert (await rows_written(market)).get(symbol, 0) == (0 if reads_on else 8)


async def test_a_slow_reader_is_not_cut_off(database_url: URL) -> None:
    """The reader pauses for longer than the idle timeout, and in all for longer than the statement timeout."""
    config = DatabaseConfig(idle_transaction_timeout_seconds=0.2, statement_timeout_seconds=1.0)
    async with Database(database_url) as database:
        await add_ticks(database, 2_100)
        await add_fills(database, FILLS)

    async def read(stream: str, wanted: int) -> None:
        async with database.reader() as reader:
            seen = 0
            async for _ in STREAMS[stream].opened(reader, "T"):
                seen += 1
                if seen % (wanted // 3) == 1:
                    await asyncio.sleep(0.4)
            assert seen == wanted

    async with Database(database_url, config) as database:
        await asyncio.gather(read("records", 2_100), read("entries", FILLS))


@pytest.mark.soak
async def test_a_slow_reader_at_default_settings_gets_all(market: Database) -> None:
    """The full form reads a million ticks in a minute."""
    count, seconds = amount(20_000, 1_000_000), amount(0, 60)
    await add_ticks(market, count)
    async with market.reader() as reader:
        seen = 0
        async for batch in reader.ticks.ticks("T", START, END).stream_arrow():
            await asyncio.sleep(seconds * len(batch) / count)
            seen += len(batch)
    assert seen == count


async def test_a_commit_answered_with_rollback_raises(market: Database, database: Engine) -> None:
    """Commits of the engine, a session, a blocking engine and a pipeline."""
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
