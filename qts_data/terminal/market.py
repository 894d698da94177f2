"""Output of bars and imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qts_data.contracts.instants import end_of_day
from qts_data.repositories import BAR_INTERVALS
from qts_data.terminal.console import console, notes
from qts_data.terminal.table import Table

if TYPE_CHECKING:
    import datetime as dt
    import zoneinfo

    from qts_data.contracts import OHLCV
    from qts_data.operations import market
    from qts_data.repositories import BarInterval, Bars

__all__ = ["print_bars", "print_import"]


def print_bars(
    title: str,
    rows: Bars,
    zone: zoneinfo.ZoneInfo,
    *,
    limit: int | None = None,
    interval: BarInterval = "1m",
    asked_at: dt.datetime | None = None,
) -> None:
    """Print one row for each bar, with times in the zone, and with the source if several have bars.

    Args:
        title: Printed above them; with `limit`, the number of bars is added.
        rows: In order of time.
        zone: Of the times.
        limit: Most bars to print, the last ones.
        interval: Length of a bar.
        asked_at: When they were read. A bar that had not ended by then is marked as open.
    """
    shown = rows if limit is None else rows[-limit:]
    if limit is not None:
        title = f"{title}: " + (f"{len(rows):,} bars" if shown == rows else f"the last {len(shown):,} of {len(rows):,}")
    console.print(title, style="italic", soft_wrap=True)
    several = len({bar.source for bar in shown}) > 1
    left = ("time", "source") if several else ("time",)
    is_open = [asked_at is not None and _end(bar, interval, zone) > asked_at for bar in shown]
    table = Table(left, ("open", "high", "low", "close", "volume", "ticks", *(("",) if any(is_open) else ())))
    for bar, opened in zip(shown, is_open, strict=True):
        local = bar.time.astimezone(zone)
        numbers = (bar.open, bar.high, bar.low, bar.close, bar.volume)
        mark = ("open" if opened else "",) if any(is_open) else ()
        table.add(
            (
                f"{local:%Y-%m-%d}" if interval == "1d" else f"{local:%H:%M}",
                *((bar.source,) if several else ()),
                *(f"{number.normalize():,f}" for number in numbers),
                f"{bar.tick_count:,}",
                *mark,
            )
        )
    table.print()


def _end(bar: OHLCV, interval: BarInterval, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    if interval == "1d":
        return end_of_day("time", bar.time.astimezone(zone).date(), zone)
    return bar.time + BAR_INTERVALS[interval].length


def print_import(report: market.ImportReport) -> None:
    """Print the counts on stdout, and notes that may need an action on stderr."""
    loaded = report.ingest
    rejected = f", rejected {loaded.rejected:,}" if loaded.rejected else ""
    console.print(
        f"received {loaded.received:,}, inserted {loaded.inserted:,}, duplicate {loaded.duplicate:,}{rejected}",
        soft_wrap=True,
    )
    if loaded.already_loaded:
        notes.print("note: this file is already loaded; --again loads it once more", soft_wrap=True)
        if loaded.rejected:
            notes.print(
                f"note: {loaded.rejected:,} of its rows were rejected then, and are missing; --again writes them to a "
                "file once more",
                soft_wrap=True,
            )
    if loaded.late:
        changed = ", ".join(
            f"{bars.symbol} {bars.start:%Y-%m-%d %H:%M} to {bars.end:%H:%M} UTC" for bars in loaded.changed[:3]
        )
        more = f" and {len(loaded.changed) - 3:,} more" if len(loaded.changed) > 3 else ""
        notes.print(f"note: {loaded.late:,} ticks were late and changed bars: {changed}{more}", soft_wrap=True)
    if loaded.ahead:
        notes.print(
            f"note: {loaded.ahead:,} ticks lie ahead of the server's clock, the last at "
            f"{loaded.last:%Y-%m-%d %H:%M:%S} UTC; no closed bar holds them before that",
            soft_wrap=True,
        )
    for name, bars in report.refresh.skipped.items():
        notes.print(
            f"note: {bars:,} bars of {name} in this range outlived their rows and were left as they are, with the "
            "hours that they are in: a refresh would destroy them",
            soft_wrap=True,
        )
    if report.cutoff is not None and loaded.past_retention:
        notes.print(
            f"note: retention drops ticks before {report.cutoff:%Y-%m-%d %H:%M} UTC at its next run, and "
            f"{loaded.past_retention:,} of these are older; --keep loads them into tick_history, which keeps them",
            soft_wrap=True,
        )
