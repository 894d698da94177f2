"""Bars and imports, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from qts_data.terminal.console import console, notes

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from qts_data.contracts import OHLCV
    from qts_data.operations import market


from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["print_bars", "print_import"]


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


def print_import(report: market.ImportReport) -> None:
    """Counts on stdout; what somebody may have to do about it on stderr."""
    loaded = report.ingest
    rejected = f", rejected {loaded.rejected:,}" if loaded.rejected else ""
    console.print(
        f"received {loaded.received:,}, inserted {loaded.inserted:,}, duplicate {loaded.duplicate:,}{rejected}"
    )
    if loaded.known:
        notes.print("note: this file is in already; --again loads it once more", soft_wrap=True)
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
    for name, bars in report.refresh.kept.items():
        notes.print(
            f"note: {bars:,} bars of {name} in this range outlived their rows and were left as they are, with the "
            "hours that they are in: a refresh would destroy them",
            soft_wrap=True,
        )
    if report.cutoff is not None and loaded.doomed:
        notes.print(
            f"note: retention drops ticks before {report.cutoff:%Y-%m-%d %H:%M} UTC at its next run, and "
            f"{loaded.doomed:,} of these are older; --keep loads them into tick_history, which keeps them",
            soft_wrap=True,
        )
