"""Tables for people: status and bars."""

from __future__ import annotations

import asyncio
import datetime as dt
import zoneinfo
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from qts_data.contracts.instants import start_of_day
from qts_data.errors import ConfigurationError
from qts_data.operations import market
from qts_data.repositories import BAR_INTERVALS
from qts_data.settings import load_settings
from qts_data.terminal.console import notes
from qts_data.terminal.market import print_bars

if TYPE_CHECKING:
    from qts_data.repositories import BarInterval, BarSource

__all__ = [
    "bars",
]

Interval = StrEnum("Interval", {name: name for name in BAR_INTERVALS})  # type: ignore[misc]
_MINUTE = Interval("1m")


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
