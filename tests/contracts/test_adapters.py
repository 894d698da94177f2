"""The promises of every data source, tried on each of them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import zoneinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import pytest
import pytest_asyncio

from qts_data.adapters import DataSourceAdapter, GoogleSheetsAdapter, InMemoryAdapter, TimescaleDBAdapter
from qts_data.adapters.hybrid import HybridAdapter
from qts_data.contracts import OHLCV
from qts_data.errors import InvalidRecord, LedgerConflict, NotFound, NotSupported, StaleWrite
from qts_data.importers.tables import LAYOUTS, row_of
from qts_data.repositories import Database
from tests.fixtures.factories import FillFactory, TickFactory
from tests.fixtures.repeated_hours import REPEATED, twice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.engine import URL

    from qts_data.contracts import LedgerEntry, TickData
    from qts_data.demo.sheets_server import Workbook
    from tests.fixtures.fix_sheets import MakeSheets

MIDNIGHT = dt.datetime(2026, 11, 19, 15, tzinfo=dt.UTC)  # of 20 November in Korea
DAY = dt.timedelta(days=1)


class Source:
    """An adapter, and a way to store the records that it can only read."""

    def __init__(self, adapter: DataSourceAdapter, database: Database | None, workbook: Workbook | None) -> None:
        self.adapter = adapter
        self.database = database
        self.workbook = workbook

    async def add(self, bars: Sequence[OHLCV] = (), ticks: Sequence[TickData] = ()) -> None:
        if isinstance(self.adapter, InMemoryAdapter):
            self.adapter.add_bars("1d", bars)
            self.adapter.add_ticks(ticks)
        elif self.database is not None:
            async with self.database.transaction() as uow:
                await uow.daily_bars.upsert(bars)
                await uow.ticks.ingest(ticks)
        elif self.workbook is not None:
            fields = LAYOUTS["daily_bars"].fields
            rows = [row_of(bar, zone=zoneinfo.ZoneInfo("Asia/Seoul")) for bar in bars]
            self.workbook.put("History", [fields, *([row.get(field) for field in fields] for row in rows)])


@pytest_asyncio.fixture(params=["memory", "database", "sheets", "hybrid"])
async def source(request: pytest.FixtureRequest) -> AsyncIterator[Source]:
    if request.param == "memory":
        yield Source(InMemoryAdapter(), None, None)
        return
    workbook: Workbook = request.getfixturevalue("workbook")
    make_sheets: MakeSheets = request.getfixturevalue("make_sheets")
    if request.param == "sheets":
        async with make_sheets() as sheets:
            yield Source(sheets, None, workbook)
        return
    url: URL = request.getfixturevalue("database_url")
    async with Database(url) as database, TimescaleDBAdapter(database) as primary:
        if request.param == "database":
            yield Source(primary, database, None)
            return
        async with HybridAdapter(primary, make_sheets()) as hybrid:
            await hybrid.outbox.enable()
            yield Source(hybrid, database, None)


def fill(side: Literal["BUY", "SELL"], qty: str, price: str, **values: Any) -> LedgerEntry:
    return FillFactory.build(side=side, qty=Decimal(qty), price=Decimal(price), **values)


async def test_a_fill_is_booked_and_the_position_moves_with_it(source: Source) -> None:
    bought = await source.adapter.append_ledger(fill("BUY", "10", "100.5"))
    sold = await source.adapter.append_ledger(fill("SELL", "4", "110"))
    assert not bought.duplicate
    assert (sold.realized_pnl, sold.position.qty, sold.position.avg_price) == (
        Decimal(38), Decimal(6), Decimal("100.5"),
    )  # fmt: skip
    held = await source.adapter.fetch_position("005930")
    assert held is not None
    assert (held.qty, held.avg_price, held.cost_basis, held.realized_pnl, held.market, held.currency) == (
        Decimal(6), Decimal("100.5"), Decimal(603), Decimal(38), "KRX", "KRW",
    )  # fmt: skip
    assert await source.adapter.fetch_position("005930", "other") is None
    assert await source.adapter.fetch_position("000660") is None


async def test_fill_sent_again_changes_nothing_and_is_a_duplicate(source: Source) -> None:
    entry = fill("BUY", "10", "100", fee=Decimal("0.00000123"))
    first = await source.adapter.append_ledger(entry)
    await source.adapter.append_ledger(fill("BUY", "1", "100"))
    later = dataclasses.replace(entry, timestamp=entry.timestamp + dt.timedelta(microseconds=3))
    for again in (entry, later):
        result = await source.adapter.append_ledger(again)
        assert result.duplicate
        assert (result.ledger_id, result.position.qty) == (first.ledger_id, Decimal(10))
    assert len(await source.adapter.fetch_ledger()) == 2
    with pytest.raises(LedgerConflict, match="another fill has this execution id"):
        await source.adapter.append_ledger(dataclasses.replace(entry, qty=Decimal("10.00000001"), amount=None))


async def test_a_fill_in_another_currency_than_its_position_is_refused(source: Source) -> None:
    await source.adapter.append_ledger(fill("BUY", "1", "100"))
    with pytest.raises(InvalidRecord, match="currency"):
        await source.adapter.append_ledger(fill("BUY", "1", "100", currency="USD"))
    assert len(await source.adapter.fetch_ledger()) == 1


async def test_ledger_read_back_is_exact_and_in_booking_order(source: Source) -> None:
    """`fetch_ledger` returns every digit and text that was booked, in the order of booking."""
    entries = [
        fill("BUY", "0.00000001", "99999999.99999999", fee=Decimal("-0.00000007"), strategy_tag="=1+1", order_id="007"),
        fill(
            "BUY",
            "1234567.12345678",
            "0.00000003",
            symbol="BTCUSDT",
            market="BINANCE",
            currency="USDT",
            fee_currency="BNB",
        ),
        fill("SELL", "3", "71500", execution_id=None, idempotency_key="mine-1", account="second"),
    ]
    for entry in reversed(entries):
        await source.adapter.append_ledger(entry)
    found = await source.adapter.fetch_ledger()
    assert list(found) == entries[::-1]
    assert not found.fallback
    assert list(await source.adapter.fetch_ledger(limit=2)) == entries[:0:-1]
    assert list(await source.adapter.fetch_ledger("BTCUSDT")) == [entries[1]]
    middle = entries[1].timestamp
    assert list(await source.adapter.fetch_ledger(start=middle, end=middle + dt.timedelta(microseconds=1))) == [
        entries[1]
    ]
    with pytest.raises(InvalidRecord, match="start"):
        await source.adapter.fetch_ledger(start=dt.datetime(2026, 1, 1))  # noqa: DTZ001


async def test_positions_come_in_order_with_the_closed_ones(source: Source) -> None:
    """Positions are sorted by account and symbol. Closed positions are among them."""
    for symbol, account in (("000660", "b"), ("005930", "a"), ("000270", "b")):
        await source.adapter.append_ledger(fill("BUY", "1", "10", symbol=symbol, account=account))
    await source.adapter.append_ledger(fill("SELL", "1", "12", symbol="000660", account="b"))
    found = await source.adapter.fetch_positions()
    assert [(one.account, one.symbol, one.qty) for one in found] == [
        ("a", "005930", Decimal(1)), ("b", "000270", Decimal(1)), ("b", "000660", Decimal(0)),
    ]  # fmt: skip
    assert [one.symbol for one in await source.adapter.fetch_positions("b")] == ["000270", "000660"]


async def test_a_valuation_is_taken_a_quantity_is_not(source: Source) -> None:
    held = (await source.adapter.append_ledger(fill("BUY", "10", "100"))).position
    at = MIDNIGHT + dt.timedelta(hours=1, microseconds=1)
    marked = dataclasses.replace(held, mark_price=Decimal("101.5"), marked_at=at, exposure_pct=Decimal("0.125"))
    stored = await source.adapter.update_position(marked)
    assert (stored.exposure_value, stored.unrealized_pnl, stored.exposure_pct) == (
        Decimal(1015), Decimal(15), Decimal("0.125"),
    )  # fmt: skip
    again = await source.adapter.fetch_position("005930")
    assert again is not None
    assert (again.mark_price, again.marked_at, again.exposure_value, again.exposure_pct) == (
        Decimal("101.5"), at, Decimal(1015), Decimal("0.125"),
    )  # fmt: skip
    older = dataclasses.replace(marked, mark_price=Decimal(1), marked_at=at - dt.timedelta(seconds=1))
    assert (await source.adapter.update_position(older)).mark_price == Decimal("101.5")
    with pytest.raises(StaleWrite, match="qty"):
        await source.adapter.update_position(dataclasses.replace(marked, qty=Decimal(11)))
    with pytest.raises(InvalidRecord, match="mark_price"):
        await source.adapter.update_position(held)
    with pytest.raises(NotFound):
        await source.adapter.update_position(dataclasses.replace(marked, symbol="000660"))


async def test_daily_bars_of_a_range_come_in_order(source: Source) -> None:
    figures: dict[str, Any] = {"open": Decimal(10), "high": Decimal(12), "low": Decimal(9), "close": Decimal("11.5")}
    bars = [
        OHLCV(time=MIDNIGHT + day * DAY, symbol=symbol, source="", volume=Decimal(1000), tick_count=0, **figures)
        for day in (1, 0, 2)
        for symbol in ("005930", "000660")
    ]
    await source.add(bars=bars)
    found = await source.adapter.fetch_ohlcv("005930", MIDNIGHT, MIDNIGHT + 2 * DAY, "1d")
    assert list(found) == [bars[2], bars[0]]
    with pytest.raises(InvalidRecord, match="end"):
        await source.adapter.fetch_ohlcv("005930", MIDNIGHT, dt.datetime(2026, 12, 1), "1d")  # noqa: DTZ001


async def test_ticks_of_a_range_come_in_order_or_are_not_supported(source: Source) -> None:
    ticks = [dataclasses.replace(tick, seq=0) for tick in TickFactory.build_batch(5)]
    start, end = ticks[1].time, ticks[4].time
    if isinstance(source.adapter, GoogleSheetsAdapter):
        with pytest.raises(NotSupported, match="no ticks"):
            await source.adapter.fetch_tick_data("005930", start, end)
        with pytest.raises(NotSupported, match="not of 1m"):
            await source.adapter.fetch_ohlcv("005930", start, end, "1m")
        return
    await source.add(ticks=ticks)
    assert list(await source.adapter.fetch_tick_data("005930", start, end)) == ticks[1:4]


async def test_health_of_a_working_source_is_good(source: Source) -> None:
    status = await source.adapter.health_check()
    assert status.healthy, status.detail
    assert status.latency_seconds is not None


@pytest.mark.parametrize("zone", REPEATED)
async def test_a_range_in_the_repeated_hour_is_that_of_utc(source: Source, zone: str) -> None:
    """Compared by the wall clock of the zone, such a range would be empty or reversed."""
    first, second = twice(zone)
    early, late = (moment.astimezone(dt.UTC) for moment in (first, second))
    for moment in (first, second):
        await source.adapter.append_ledger(fill("BUY", "1", "1", timestamp=moment))
    figures: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close", "volume"), Decimal(1))
    if source.workbook is None or source.database is not None:
        bars = [OHLCV(time=moment, symbol="005930", source="", tick_count=0, **figures) for moment in (first, second)]
        await source.add(bars=bars, ticks=[TickFactory.build(time=moment) for moment in (first, second)])
        for start, end in ((first, second), (early, late)):
            assert [bar.time for bar in await source.adapter.fetch_ohlcv("005930", start, end, "1d")] == [early]
            assert [tick.time for tick in await source.adapter.fetch_tick_data("005930", start, end)] == [early]
    for start, end in ((first, second), (early, late)):
        assert [entry.timestamp for entry in await source.adapter.fetch_ledger(start=start, end=end)] == [early]
