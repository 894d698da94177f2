"""`qts-data gaps`: missing ticks and silent feeds."""

from __future__ import annotations

import asyncio
import datetime as dt
import zoneinfo
from typing import Annotated

import typer

from qts_data.contracts.instants import local_time, start_of_day, utc, utc_of_local
from qts_data.operations import market
from qts_data.settings import load_settings
from qts_data.terminal.console import console, notes
from qts_data.terminal.table import Table

__all__ = ["app"]

app: typer.Typer = typer.Typer(help="Missing ticks and silent feeds.", no_args_is_help=True)

FOUND = 3
"""Exit code of a search that found gaps or silent feeds."""

Symbol = Annotated[str, typer.Argument(help="The instrument.")]
Calendar = Annotated[str, typer.Option(help="Exchange whose sessions count, such as XKRX or XNYS, or 24/7.")]
Source = Annotated[str | None, typer.Option(help="Only this feed; all feeds together by default.")]
_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M%z"]
Start = Annotated[dt.datetime, typer.Option("--from", formats=_FORMATS, help="Start, in QTS_TRADING_TIME_ZONE.")]
End = Annotated[dt.datetime, typer.Option("--to", formats=_FORMATS, help="End, exclusive.")]


@app.command(name="list")
def list_(
    symbol: Symbol,
    start: Start,
    end: End,
    calendar: Calendar = "XKRX",
    source: Source = None,
    at_least: Annotated[int, typer.Option(min=1, help="Shortest gap to show, in minutes.")] = 1,
    kept: Annotated[bool, typer.Option("--kept", help="Check the ticks kept for ever (import --keep).")] = False,
) -> None:
    """List days and minutes of trading without a tick. Exit code 3 if there are any."""
    settings = load_settings()
    zone = zoneinfo.ZoneInfo(settings.trading_time_zone)
    found = asyncio.run(
        market.list_gaps(
            settings,
            symbol,
            _instant("--from", start, zone),
            _instant("--to", end, zone),
            calendar,
            source=source,
            at_least=dt.timedelta(minutes=at_least),
            kept=kept,
        )
    )
    if not found:
        console.print(f"no gaps of {symbol}")
        _note_calendar(calendar)
        return
    table = Table(("what", f"from ({zone.key})", "to"), ("minutes",))
    for gap in found:
        table.add((gap.kind, _shown(gap.start, zone), _shown(gap.end, zone), f"{gap.minutes:,}"))
    table.print()
    _note_calendar(calendar)
    raise typer.Exit(FOUND)


@app.command(name="sign-off")
def sign_off(
    symbol: Symbol,
    start: Start,
    end: End,
    reason: Annotated[str, typer.Option(help="Reason for the gap.")],
    source: Source = None,
) -> None:
    """Explain a gap. Later lists leave it out."""
    settings = load_settings()
    zone = zoneinfo.ZoneInfo(settings.trading_time_zone)
    first, after = _instant("--from", start, zone), _instant("--to", end, zone)
    asyncio.run(market.sign_off_gap(settings, symbol, first, after, reason, source=source))
    console.print(f"signed off: {symbol} from {_shown(first, zone)} to {_shown(after, zone)} {zone.key}")


@app.command()
def stale(
    calendar: Calendar = "XKRX",
    minutes: Annotated[int, typer.Option(min=0, help="Longest normal silence, in trading minutes.")] = 5,
) -> None:
    """List feeds that are silent while the exchange trades. Exit code 3 if there are any."""
    settings = load_settings()
    found = asyncio.run(market.list_stale_feeds(settings, calendar, dt.timedelta(minutes=minutes)))
    if not found:
        notes.print("no feed is stale")
        return
    zone = zoneinfo.ZoneInfo(settings.trading_time_zone)
    table = Table(("symbol", "feed", f"last tick ({zone.key})"), ("silent minutes",))
    for feed in found:
        silent = feed.silent // dt.timedelta(minutes=1)
        table.add((feed.symbol, feed.source or "-", _shown(feed.last, zone), f"{silent:,}"))
    table.print()
    raise typer.Exit(FOUND)


def _note_calendar(calendar: str) -> None:
    notes.print(f"note: in the sessions of {calendar}; --calendar chooses another exchange", soft_wrap=True)


def _instant(option: str, given: dt.datetime, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    """Return the instant that an option means. A date alone is the start of that day."""
    if given.tzinfo is not None:
        instant = utc(option, given)
        local_time(option, instant, zone)
        return instant
    if given.time() == dt.time():
        return start_of_day(option, given.date(), zone)
    return utc_of_local(option, given, zone)


def _shown(instant: dt.datetime, zone: dt.tzinfo) -> str:
    return f"{instant.astimezone(zone):%Y-%m-%d %H:%M}"
