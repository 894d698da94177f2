"""Tables for people: status and bars."""

from __future__ import annotations

import asyncio
import datetime as dt
import zoneinfo
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table

from qts_data.contracts.instants import start_of_day
from qts_data.errors import ConfigurationError
from qts_data.operations import market, schema
from qts_data.operations.status import Status
from qts_data.repositories import BAR_INTERVALS
from qts_data.settings import load_settings
from qts_data.terminal.console import console, notes
from qts_data.timescale.edition import SAFE_TIMESCALEDB, Edition
from qts_data.timescale.status import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qts_data.contracts import OHLCV
    from qts_data.repositories import BarInterval, BarSource

__all__ = ["bars", "print_bars", "print_check", "print_status"]

Interval = StrEnum("Interval", {name: name for name in BAR_INTERVALS})  # type: ignore[misc]
_MINUTE = Interval("1m")
_STYLES = {State.ACTIVE: "green", State.DEGRADED: "yellow", State.MISSING: "red", State.AHEAD: "red"}


def print_status(found: Status, configured_zone: str) -> None:
    """Facts first, then each feature, then what to do."""
    server = found.server
    console.print(f"database  {found.url}", soft_wrap=True)
    console.print(
        f"edition   {server.edition} (PostgreSQL {server.postgres}, TimescaleDB {server.timescaledb_text})",
        soft_wrap=True,
    )
    console.print(f"revision  database {found.revision.database or 'empty'}, code {found.revision.code}")
    console.print(f"zone      {found.trading_zone or '-'}")
    if found.features:
        table = Table("object", "feature", "state", "why", box=None, pad_edge=False)
        for feature in found.features:
            table.add_row(feature.name, feature.feature, feature.state, feature.reason, style=_STYLES[feature.state])
        console.print(table)
    for note in _advice(found, configured_zone):
        notes.print(f"note: {note}", soft_wrap=True)


def print_check(report: schema.CheckReport) -> None:
    """Differences first; what the edition does not enforce is a note."""
    if not report.revision.current:
        console.print(f"revision: database {report.revision.database or 'empty'}, code {report.revision.code}")
    if report.differences:
        table = Table("object", "what", "declared", "found", box=None, pad_edge=False)
        for item in report.differences:
            table.add_row(item.name, item.what, item.declared, item.found)
        console.print(table)
    if report.clean:
        console.print(f"as declared, on the {report.server.edition} edition")
    for state in report.not_enforced:
        notes.print(f"note: {state.name}: {state.feature} is not enforced here: {state.reason}", soft_wrap=True)


def _advice(found: Status, configured_zone: str) -> list[str]:
    advice = []
    if not found.revision.known:
        advice.append("a newer version has migrated this database; deploy that version")
    elif not found.revision.current:
        advice.append("the schema is behind the code; run qts-data db upgrade")
    if found.trading_zone not in {None, configured_zone}:
        advice.append(
            f"QTS_TRADING_TIME_ZONE is {configured_zone}, the database's views use {found.trading_zone}; run "
            "qts-data db trading-zone"
        )
    if found.server.edition is Edition.POSTGRESQL and found.server.available:
        advice.append(
            f"TimescaleDB {found.server.available} is on the server, but not installed in this database; qts-data db "
            "adopt does it, and locks tables while their rows move"
        )
    if any(feature.state is State.MISSING for feature in found.features):
        advice.append("the server can do what is missing; run qts-data db adopt")
    if any(feature.state is State.AHEAD for feature in found.features):
        advice.append("bars ahead of the server's clock are materialized; run qts-data db adopt to set them back")
    if found.server.timescaledb is not None and found.server.timescaledb < SAFE_TIMESCALEDB:
        safe = ".".join(map(str, SAFE_TIMESCALEDB))
        advice.append(f"TimescaleDB {found.server.timescaledb_text} lacks security fixes of {safe}")
    if found.missing_roles:
        advice.append(f"roles {', '.join(found.missing_roles)} do not exist; run qts-data db roles")
    return advice


def bars(
    symbol: Annotated[str, typer.Argument(help="The instrument.")],
    interval: Annotated[Interval, typer.Option(help="Length of a bar.")] = _MINUTE,
    date: Annotated[
        dt.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Trading day, in QTS_TRADING_TIME_ZONE; today by default."),
    ] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Of the ticks that are kept for ever (import --keep).")] = False,
    vendor: Annotated[bool, typer.Option("--vendor", help="Of minutes as vendors publish them (import bars).")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most bars to print; the last ones.")] = 30,
) -> None:
    """Print the bars of one trading day."""
    if kept and vendor:
        raise ConfigurationError("--kept is of ticks, --vendor is not: give one of them")
    of: BarSource = "ohlcv_1m_vendor" if vendor else "tick_history" if kept else "tick_data"
    settings = load_settings()
    zone = zoneinfo.ZoneInfo(settings.trading_time_zone)
    day = (date or dt.datetime.now(zone)).date()
    start = start_of_day("--date", day, zone)
    end = start_of_day("--date", day + dt.timedelta(days=1), zone)
    length = cast("BarInterval", interval.value)
    found = asyncio.run(market.list_bars(settings, symbol, start, end, length, of=of))
    if not found:
        notes.print(f"no bars of {symbol} on {day} ({settings.trading_time_zone})")
        raise typer.Exit(1)
    print_bars(f"{symbol} {interval.value}, {day} {settings.trading_time_zone}", found[-limit:], zone)


def print_bars(title: str, rows: Sequence[OHLCV], zone: dt.tzinfo) -> None:
    """One row a bar, times in the zone; whose bars they are where several have some."""
    console.print(title, style="italic", soft_wrap=True)
    several = len({bar.source for bar in rows}) > 1
    table = Table(box=None, pad_edge=False)
    for name in ("time", "source") if several else ("time",):
        table.add_column(name)
    for name in ("open", "high", "low", "close", "volume", "ticks"):
        table.add_column(name, justify="right")
    for bar in rows:
        numbers = (bar.open, bar.high, bar.low, bar.close, bar.volume)
        table.add_row(
            f"{bar.time.astimezone(zone):%H:%M}",
            *((bar.source,) if several else ()),
            *(f"{number.normalize():,f}" for number in numbers),
            f"{bar.tick_count:,}",
        )
    console.print(table)
