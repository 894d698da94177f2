"""Every public question and write that takes instants, asked in zones whose clocks show an hour twice."""

from __future__ import annotations

import datetime as dt
import importlib
import inspect
import pkgutil
from dataclasses import dataclass, is_dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest_asyncio
from pydantic import SecretStr

import qts_data
from qts_data.contracts import OHLCV, ExecutionLog
from qts_data.operations import market as market_jobs
from qts_data.repositories import Database, TickRepository, UnitOfWork
from qts_data.settings import Settings
from tests.fixtures.factories import FillFactory, TickFactory
from tests.fixtures.repeated_hours import REPEATED, twice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from sqlalchemy.engine import URL

MINUTE = dt.timedelta(minutes=1)
SYMBOL = "X1"


@dataclass(frozen=True, slots=True)
class Market:
    """A database with a tick, a fill, bars and a log at each ten minutes around a repeated hour."""

    database: Database
    url: URL

    @property
    def settings(self) -> Settings:
        return Settings(database_url=SecretStr(self.url.render_as_string(hide_password=False)))


Case: TypeAlias = "Callable[[Market, dt.datetime, dt.datetime], Awaitable[Any]]"


def later(moment: dt.datetime, minutes: int) -> dt.datetime:
    """An instant within the hour. Adding to a local time would lose its fold."""
    return moment.replace(minute=moment.minute + minutes)


def reading(ask: Callable[[Any, dt.datetime, dt.datetime], Awaitable[Any]]) -> Case:
    async def case(market: Market, start: dt.datetime, end: dt.datetime) -> Any:
        async with market.database.reader() as reader:
            return await ask(reader, start, end)

    return case


def undone(write: Callable[[Any, dt.datetime, dt.datetime], Awaitable[Any]]) -> Case:
    """Write, read the result, and roll back."""

    async def case(market: Market, start: dt.datetime, end: dt.datetime) -> Any:
        async with market.database.engine.connect() as connection:
            found = await write(UnitOfWork(connection, [], []), start, end)
            await connection.rollback()
        return found

    return case


async def _mark(uow: Any, start: dt.datetime, end: dt.datetime) -> Any:
    """The later price stays, in any order of the calls."""
    await uow.positions.mark(SYMBOL, Decimal(2), end)
    await uow.positions.mark(SYMBOL, Decimal(1), start)
    found = await uow.positions.get_position(SYMBOL)
    return found.mark_price, found.marked_at


async def _feed(uow: Any, start: dt.datetime, end: dt.datetime) -> Any:
    outbox = uow.outbox("elsewhere")
    await outbox.enable(until=start)
    first = (await outbox.status()).until
    await outbox.enable(until=end)
    return first, (await outbox.status()).until


async def _sign_off(uow: Any, start: dt.datetime, end: dt.datetime) -> Any:
    await uow.ticks.sign_off_gap(SYMBOL, start, end, "halt")
    signed = await uow.ticks.list_signed_off_gaps(SYMBOL, start, end)
    return [(one.start, one.end) for one in signed]


async def _refresh(market: Market, start: dt.datetime, end: dt.datetime) -> Any:
    autocommit = market.database.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        return await TickRepository(connection).refresh_bars(start, end)


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def _list_bars(market: Market, start: dt.datetime, end: dt.datetime) -> Any:
    return await market_jobs.list_bars(market.settings, SYMBOL, start, end, "1m", of="tick_history")


async def _list_gaps(market: Market, start: dt.datetime, end: dt.datetime) -> Any:
    return await market_jobs.list_gaps(
        market.settings, SYMBOL, start, end, "24/7", source=None, at_least=MINUTE, kept=True
    )


async def _both(ask: Callable[..., Awaitable[Any]], start: dt.datetime, end: dt.datetime) -> Any:
    return await ask(start), await ask(end)


async def _stale(reader: Any, start: dt.datetime, end: dt.datetime) -> Any:
    return [await reader.tick_history.stale_feeds("24/7", as_of=moment) for moment in (start, end)]


async def _bars(reader: Any, start: dt.datetime, end: dt.datetime) -> Any:
    found = []
    for interval in ("1m", "30m", "1h", "1d"):
        found.append(await reader.tick_history.bars(SYMBOL, start, end, interval, time_zone="Asia/Seoul"))
        found.append(await reader.minute_bars.bars(SYMBOL, start, end, interval, as_of=end))
    return found


R = "qts_data.repositories."
CASES: dict[str, Case] = {
    f"{R}market.bars.daily.DailyBarReads.list_bars": reading(
        lambda r, start, end: r.daily_bars.list_bars(SYMBOL, start, end)
    ),
    f"{R}execution.logs.ExecutionLogReader.stage_latency": reading(
        lambda r, start, end: r.executions.stage_latency(start, end)
    ),
    f"{R}execution.logs.ExecutionLogReader.hourly_metrics": reading(
        lambda r, start, end: r.executions.hourly_metrics(start, end)
    ),
    f"{R}book.ledger.LedgerReader.list_entries": reading(
        lambda r, start, end: r.ledger.list_entries(start=start, end=end)
    ),
    f"{R}book.ledger.LedgerReader.stream_entries": reading(
        lambda r, start, end: _all(r.ledger.stream_entries(start=start, end=end))
    ),
    f"{R}book.pnl.PnlReader.hourly_pnl": reading(lambda r, start, end: r.pnl.hourly_pnl(start, end)),
    f"{R}book.positions.PositionReader.rebuild_positions": reading(
        lambda r, start, end: _both(r.positions.rebuild_positions, start, end)
    ),
    f"{R}book.positions.PositionRepository.mark": undone(_mark),
    f"{R}moving.outbox.Outbox.enable": undone(_feed),
    f"{R}market.bars.reads.BarReads.bars": reading(_bars),
    f"{R}market.ticks.reads.TickReads.ticks": reading(
        lambda r, start, end: r.tick_history.ticks(SYMBOL, start, end).as_records()
    ),
    f"{R}market.ticks.reads.TickReads.stream_ticks": reading(
        lambda r, start, end: _all(r.tick_history.stream_ticks(SYMBOL, start, end))
    ),
    f"{R}market.ticks.reads.TickReads.gaps": reading(
        lambda r, start, end: r.tick_history.gaps(SYMBOL, start, end, "24/7")
    ),
    f"{R}market.ticks.reads.TickReads.stale_feeds": reading(_stale),
    f"{R}market.ticks.reads.TickReads.list_signed_off_gaps": undone(_sign_off),
    f"{R}market.ticks.repository.TickRepository.sign_off_gap": undone(_sign_off),
    f"{R}market.ticks.repository.TickRepository.refresh_bars": _refresh,
    "qts_data.operations.market.list_bars": _list_bars,
    "qts_data.operations.market.list_gaps": _list_gaps,
}  # fmt: skip
"""A call of each signature."""


EXCEPTIONS = {
    "qts_data.adapters.": "the contract suite of the adapters asks them in the repeated hour",
    "qts_data.operations.market.sign_off_gap": "hands its instants to TickRepository.sign_off_gap",
    "qts_data.cache.codec.instant_text": "converts to UTC itself; the codec's tests hold it",
    "qts_data.cli.": "takes a date, or a local time that is refused where it came twice",
    "qts_data.contracts.": "the records and helpers themselves; tests/unit/test_instants.py holds them",
    "qts_data.importers.lean_quote.Quote": "made by a reader, from instants in UTC",
    "qts_data.importers.rows.utc_of": "takes a local time without a zone",
    "qts_data.rules.booked.unmarked_position": "makes a Position, which keeps its instants in UTC",
    "qts_data.rules.booking.": "the contract suite of the adapters asks them in the repeated hour",
    "qts_data.rules.fill_identity.": "converts to UTC itself; tests/unit/test_execution_ids.py holds it",
    "qts_data.rules.fill_rows.utc_text": "converts to UTC itself",
    "qts_data.cache.feed_clock.": "subtracts the instant of a record, which is in UTC",
    "qts_data.cache.plans.microseconds": "subtracts an instant in UTC, so the difference is that of UTC",
    "qts_data.moving.plan.": "takes the instant of an earlier plan, in UTC",
    "qts_data.operations.market.find_bars": "asks list_bars",
    "qts_data.terminal.market.print_bars": "shows instants of bars, in the zone asked for",
    f"{R}market.ticks.latest.LatestTime": "takes the server's clock, in UTC",
    f"{R}moving.moves.": "instants of the server's own tables",
    f"{R}book.proof.rebuild": "the work of PositionReader.rebuild_positions",
    f"{R}market.bars.reads.on_hours_since": "the work of BarReads.bars",
    f"{R}market.ticks.copy.decoding.Decoded": "made by the decoder, in UTC",
    f"{R}market.gaps.find_": "the work of TickReads.gaps and stale_feeds",
    f"{R}market.gaps.list_signed_off": "the work of TickReads.list_signed_off_gaps",
    f"{R}market.gaps.sign_off": "the work of TickRepository.sign_off_gap",
    f"{R}market.ticks.ordinals.Ordinals.next": "converts to UTC itself; tests/unit/test_ordinals.py holds it",
    f"{R}market.ticks.query.TickQuery": "made by TickReads.ticks, in UTC",
    f"{R}market.sessions.": "the work of gaps and stale_feeds",
    f"{R}market.ticks.tally.": "counts of ticks, whose times are in UTC",
}
"""Signatures without a case, by the beginning of their name, with the reason."""


def signatures() -> Iterator[str]:
    """Every public function and method, by its full name, that takes an instant. Records are left out."""
    for found in pkgutil.walk_packages(qts_data.__path__, "qts_data."):
        module = importlib.import_module(found.name)
        for name in getattr(module, "__all__", ()):
            made = getattr(module, name, None)
            if getattr(made, "__module__", None) != found.name:
                continue
            members = [("", made)]
            if inspect.isclass(made):
                members = [] if is_dataclass(made) else members
                members += [(f".{key}", value) for key, value in vars(made).items() if not key.startswith("_")]
            for key, value in members:
                target = value.__func__ if isinstance(value, staticmethod | classmethod) else value
                if callable(target) and _takes_instants(target):
                    yield f"{found.name}.{name}{key}"


def _takes_instants(target: Any) -> bool:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return False
    return any("datetime" in str(parameter.annotation) for parameter in parameters)


def test_every_signature_has_a_case_or_a_reason() -> None:
    found = set(signatures())
    assert {f"{R}market.bars.reads.BarReads.bars", "qts_data.adapters.memory.InMemoryAdapter.fetch_ledger"} <= found
    bare = {name for name in found - CASES.keys() if not name.startswith(tuple(EXCEPTIONS))}
    assert bare == set()
    assert CASES.keys() <= found
    assert [start for start in EXCEPTIONS if not any(name.startswith(start) for name in found)] == []


@pytest_asyncio.fixture
async def market(database_url: URL) -> AsyncIterator[Market]:
    async with Database(database_url) as database:
        figures: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close", "volume"), Decimal(1))
        async with database.transaction() as uow:
            for zone in REPEATED:
                around = [later(twice(zone)[fold], number) for fold in (0, 1) for number in range(0, 30, 10)]
                await uow.tick_history.ingest([TickFactory.build(time=time, symbol=SYMBOL) for time in around])
                bars = [OHLCV(time=time, symbol=SYMBOL, source="v", tick_count=1, **figures) for time in around]
                assert (await uow.minute_bars.upsert(bars)).inserted == len(bars)
                assert (await uow.daily_bars.upsert(bars)).inserted == len(bars)
                await uow.ledger.record_fills([FillFactory.build(timestamp=time, symbol=SYMBOL) for time in around])
                await uow.executions.append(
                    ExecutionLog(
                        time=time, order_id="1", symbol=SYMBOL, stage="FILL", latency_ms=Decimal(1), success=True
                    )
                    for time in around
                )
        yield Market(database, database_url)


async def test_instants_of_a_zone_ask_the_same_as_those_of_utc(market: Market) -> None:
    """Each signature in each zone. A range by the wall clock would be empty, reversed or an hour off."""
    for zone in REPEATED:
        first, second = twice(zone)
        for start, end in (
            (first, second),
            (later(first, 25), later(second, 10)),
        ):
            for name, case in CASES.items():
                wanted = await case(market, start.astimezone(dt.UTC), end.astimezone(dt.UTC))
                assert await case(market, start, end) == wanted, (name, zone, start, end)
                assert wanted != [] or "hourly" in name or start != first, (name, zone)
