"""Statements of other tasks beside a stream, and cancellation while a piece is on its way."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from qts_data.database import streaming
from qts_data.errors import DatabaseError
from qts_data.repositories import Database
from qts_data.repositories.market.ticks.copy import fetching
from tests.fixtures.streams import END, START, STREAMS, add_fills, add_ticks
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

_TABLES = {"records": "tick_data", "arrow": "tick_data", "entries": "t_ledger", "positions": "positions"}
_LOCK = 4711
_EVENT = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'")


@pytest_asyncio.fixture
async def market(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        await add_ticks(made, 20)
        await add_fills(made, 20)
        yield made


@contextlib.asynccontextmanager
async def locked(database: Database) -> AsyncIterator[None]:
    """Hold a lock for which each row of a hindered table waits."""
    async with database.transaction() as uow:
        await uow.connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        yield


async def hinder(uow: Any, table: str) -> None:
    """Let the transaction see a view of that name that waits for the lock before its first row."""
    await uow.connection.exec_driver_sql(
        f"CREATE TEMPORARY VIEW {table} AS SELECT t.* FROM public.{table} AS t, "
        f"LATERAL (SELECT pg_advisory_xact_lock_shared({_LOCK}) WHERE t.symbol IS NOT NULL) AS l"
    )


async def waits(database: Database) -> bool:
    async with database.reader() as reader:
        return bool(await reader.connection.scalar(_EVENT))


async def insert(uow: Any, symbol: str) -> None:
    await uow.connection.execute(
        sa.text("INSERT INTO ohlcv_1d (symbol, time, open, high, low, close, volume) VALUES (:s, :t, 1, 1, 1, 1, 1)"),
        {"s": symbol, "t": START},
    )


async def stored(database: Database) -> list[str]:
    async with database.reader() as reader:
        return list(await reader.connection.scalars(sa.text("SELECT symbol FROM ohlcv_1d ORDER BY symbol")))


@pytest.mark.parametrize("stream", _TABLES)
async def test_a_task_cancelled_in_a_fetch_undoes_nothing(market: Database, stream: str) -> None:
    """The piece arrives in time, so the transaction goes on after the cancellation."""
    async with market.transaction() as uow:
        await insert(uow, "before")
        await hinder(uow, _TABLES[stream])
        async with locked(market):
            reading = asyncio.ensure_future(anext(STREAMS[stream].opened(uow, "T")))
            await eventually(lambda: waits(market))
            reading.cancel()
            await asyncio.sleep(0)
            reading.cancel()  # an impatient one
        with pytest.raises(asyncio.CancelledError):
            await reading
        await insert(uow, "after")
        assert await STREAMS[stream].listed(uow, "T")
        assert not await uow.connection.scalar(sa.text("SELECT count(*) FROM pg_cursors"))
    assert await stored(market) == ["after", "before"]


@pytest.mark.parametrize("stream", _TABLES)
async def test_a_task_cancelled_in_aclose_undoes_nothing(market: Database, stream: str) -> None:
    """The transaction goes on after a cancellation at any step of the closing."""
    async with market.transaction() as uow:
        await insert(uow, "before")
        for steps in range(12):
            reading = STREAMS[stream].opened(uow, "T")
            await anext(reading)
            closing = asyncio.ensure_future(reading.aclose())
            for _ in range(steps):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
        await insert(uow, "after")
        assert await STREAMS[stream].listed(uow, "T")
        assert not await uow.connection.scalar(sa.text("SELECT count(*) FROM pg_cursors"))
    assert await stored(market) == ["after", "before"]


@pytest.mark.parametrize("stream", _TABLES)
async def test_a_fetch_that_does_not_end_is_cancelled(
    market: Database, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the transaction raises, and the database goes on."""
    monkeypatch.setattr(streaming, "_PATIENCE_SECONDS", 0.05)
    async with locked(market):
        with pytest.raises(DatabaseError):
            async with market.transaction() as uow:
                await insert(uow, "before")
                await hinder(uow, _TABLES[stream])
                reading = asyncio.ensure_future(anext(STREAMS[stream].opened(uow, "T")))
                await eventually(lambda: waits(market))
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                assert not await waits(market)
    async with market.transaction() as uow:
        await insert(uow, "next")
        assert await STREAMS[stream].listed(uow, "T")
    assert await stored(market) == ["next"]


async def test_a_fetch_of_a_silent_server_is_given_up(
    market: Database, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not answer the cancellation either. The connection is lost, and nothing is stored."""
    monkeypatch.setattr(streaming, "_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(fetching, "_PATIENCE_SECONDS", 0.05)
    async with Database(proxy.url) as distant:
        with pytest.raises(DatabaseError):
            async with distant.transaction() as uow:
                stream = STREAMS["records"].opened(uow, "T")
                await insert(uow, "before")
                await hinder(uow, "tick_data")
                async with locked(market):
                    reading = asyncio.ensure_future(anext(stream))
                    await eventually(lambda: waits(market))
                    proxy.silent = True
                    reading.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await reading
    assert await stored(market) == []


@pytest.mark.parametrize("read", ["as_records", "as_arrow"])
async def test_a_statement_of_another_task_waits_for_a_read(market: Database, read: str) -> None:
    async with market.transaction() as uow:
        await hinder(uow, "tick_data")
        async with locked(market):
            reading = asyncio.ensure_future(getattr(uow.ticks.ticks("T", START, END), read)())
            await eventually(lambda: waits(market))
            writing = asyncio.gather(*(insert(uow, symbol) for symbol in ("one", "two")))
        async with asyncio.timeout(60):
            assert len(await reading) == 20
            await writing
    assert await stored(market) == ["one", "two"]


@pytest.mark.parametrize("stream", _TABLES)
async def test_a_statement_of_another_task_waits_for_a_fetch(market: Database, stream: str) -> None:
    async with market.transaction() as uow:
        await hinder(uow, _TABLES[stream])
        async with locked(market):
            reading = asyncio.ensure_future(anext(STREAMS[stream].opened(uow, "T")))
            await eventually(lambda: waits(market))
            writing = asyncio.ensure_future(insert(uow, "one"))
        async with asyncio.timeout(60):
            assert await reading
            await writing
    assert await stored(market) == ["one"]
