"""Tables for people: status and bars."""

from __future__ import annotations

import asyncio
import datetime as dt
import zoneinfo
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from qts_data.contracts.instants import end_of_day, start_of_day
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.operations import market
from qts_data.repositories import BAR_INTERVALS
from qts_data.settings import load_settings
from qts_data.terminal.console import notes
from qts_data.terminal.market import print_bars

if TYPE_CHECKING:
    from qts_data.operations.market import DailyOr
    from qts_data.repositories import BarInterval

__all__ = [
    "bars",
]

Interval = StrEnum("Interval", {name: name for name in BAR_INTERVALS})  # type: ignore[misc]
_MINUTE = Interval("1m")
_YEAR = dt.timedelta(days=366)


def bars(
    symbol: Annotated[str, typer.Argument(help="The instrument.")],
    interval: Annotated[Interval, typer.Option(help="Length of a bar.")] = _MINUTE,
    date: Annotated[
        dt.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Trading day, in the zone; today by default."),
    ] = None,
    zone_name: Annotated[
        str | None,
        typer.Option("--zone", help="Zone of the market, such as America/New_York; QTS_TRADING_TIME_ZONE by default."),
    ] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Bars of the ticks kept for ever (import --keep).")] = False,
    vendor: Annotated[
        bool, typer.Option("--vendor", help="Bars of minutes as vendors publish them (import bars).")
    ] = False,
    daily: Annotated[
        bool, typer.Option("--daily", help="Official daily bars (ohlcv_1d) of the year up to the day.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of bars; the last ones.")] = 30,
) -> None:
    """Print the bars of one trading day. With --daily, the daily bars of the year up to the day."""
    if kept + vendor + daily > 1:
        raise ConfigurationError("--kept, --vendor and --daily read different tables: give one of them")
    settings = load_settings()
    zone = _zone(zone_name or settings.trading_time_zone)
    day = (date or dt.datetime.now(zone)).date()
    start = start_of_day("--date", _year_before(day) if daily else day, zone)
    end = end_of_day("--date", day, zone)
    length = cast("BarInterval", "1d" if daily else interval.value)
    of: DailyOr = "ohlcv_1d" if daily else "ohlcv_1m_vendor" if vendor else "tick_history" if kept else "tick_data"
    page = asyncio.run(market.find_bars(settings, symbol, start, end, length, of=of, time_zone=zone_name))
    if not page.bars:
        notes.print(_nothing(page, symbol, day, zone, daily=daily), soft_wrap=True)
        raise typer.Exit(1)
    what = f"{symbol} {length}, " + (f"days up to {day}" if daily else f"{day}") + f" {zone.key}"
    print_bars(what, page.bars, zone, limit=limit, interval=length, asked_at=page.asked_at)


def _year_before(day: dt.date) -> dt.date:
    if day - dt.date.min <= _YEAR:
        raise InvalidRecord(field="--date", reason=f"a year before {day} is before the year 1")
    return day - _YEAR


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(f"--zone {name}: unknown time zone; write one such as America/New_York") from error


def _nothing(page: market.BarPage, symbol: str, day: dt.date, zone: zoneinfo.ZoneInfo, *, daily: bool) -> str:
    if not page.known:
        return f"no bars of {symbol}: {page.of} has no rows of this symbol"
    when = f"in the year up to {day}" if daily else f"on {day}"
    return f"no bars of {symbol} {when} ({zone.key}); --zone chooses the days of another market"
