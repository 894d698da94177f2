"""Official daily bars: a corrected bar replaces the stored one."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from qts_data.contracts import OHLCV
from qts_data.errors import InvalidRecord
from qts_data.repositories import Database, UpsertReport

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

START = dt.datetime(2026, 11, 1, 15, tzinfo=dt.UTC)


def bar(day: int, close: int, symbol: str = "005930") -> OHLCV:
    price = Decimal(close)
    return OHLCV(
        time=START + dt.timedelta(days=day), symbol=symbol, source="", open=price, high=price + 1, low=price - 1,
        close=price, volume=Decimal(day), tick_count=0,
    )  # fmt: skip


async def test_daily_bars_are_inserted_corrected_or_left_alone(database_url: URL) -> None:
    bars = [bar(day, 100 + day) for day in range(10)]
    async with Database(database_url) as database:
        async with database.transaction() as uow:
            assert await uow.daily_bars.upsert(bars) == UpsertReport(10, 10, 0, 0)
        corrected = [replace(bars[3], volume=Decimal(999)), *bars[4:], bar(10, 1), bars[4]]
        async with database.transaction() as uow:
            assert await uow.daily_bars.upsert(corrected) == UpsertReport(9, 1, 1, 7)
        async with database.reader() as reader:
            found = await reader.daily_bars.list_bars("005930", START, START + dt.timedelta(days=5))
        assert found == [*bars[:3], corrected[0], bars[4]]


async def test_a_day_that_comes_twice_and_differs_is_refused(database_url: URL) -> None:
    async with Database(database_url) as database, database.transaction() as uow:
        with pytest.raises(InvalidRecord, match=r"row 2: time: 005930 2026-11-02T15:00:00.* comes twice and differs"):
            await uow.daily_bars.upsert([bar(1, 100), bar(1, 101)])
