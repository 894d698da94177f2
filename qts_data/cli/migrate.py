"""`qts-data migrate`: from Google Sheets to the database, and back."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qts_data import bootstrap
from qts_data.errors import ConfigurationError, QtsDataError
from qts_data.moving import CutoverGates
from qts_data.settings import load_settings
from qts_data.terminal.console import console, fail, notes, print_json
from qts_data.terminal.moving import print_plan, print_report, print_status

if TYPE_CHECKING:
    from qts_data.moving import MoveStatus, Plan
    from qts_data.moving.consistency import ConsistencyReport
    from qts_data.repositories import OutboxStatus

__all__ = [
    "app",
]

app: typer.Typer = typer.Typer(
    help="From Google Sheets to the database: plan, copy, shadow, verify, cutover; rollback returns to the sheet.",
    no_args_is_help=True,
)


@app.command()
def demo(
    directory: Annotated[
        Path | None, typer.Option(help="Data directory of the demo's server; .qts/demo of this folder by default.")
    ] = None,
) -> None:
    """Move a small book from a stand-in for Google Sheets to the demo's own database, and print the proof."""
    from qts_data.demo.move import run_demo  # noqa: PLC0415 - needs the extra `sheets`

    run_demo(directory or Path(".qts") / "demo")


@app.command()
def plan() -> None:
    """Read the spreadsheet and print the rows that can be moved, and the obstacles. Exit code 1 if there are any."""

    async def work() -> Plan:
        async with bootstrap.move(load_settings()) as move:
            return await move.plan()

    found = asyncio.run(work())
    print_plan(found)
    if not found.ready:
        raise typer.Exit(1)


@app.command()
def copy(
    chunk: Annotated[int, typer.Option(min=1, help="Rows in one transaction.")] = 1000,
) -> None:
    """Copy all rows that the database lacks. It may be stopped at any time. The same command continues."""

    async def work() -> dict[str, int]:
        async with bootstrap.move(load_settings()) as move:
            return await move.copy(chunk=chunk, progress=_Progress().show)

    copied = asyncio.run(work())
    console.print("copied " + ", ".join(f"{kind} {rows:,}" for kind, rows in copied.items()))


class _Progress:
    """Prints a line for each table, with the time left at this pace."""

    def __init__(self) -> None:
        self._kind = ""
        self._began = 0.0
        self._first = 0

    def show(self, kind: str, done: int, total: int) -> None:
        now = time.monotonic()
        if kind != self._kind:
            self._kind, self._began, self._first = kind, now, done
        pace = (done - self._first) / (now - self._began) if now > self._began else 0
        left = f", {(total - done) / pace:.0f} s left" if pace and done < total else ""
        notes.print(f"{kind}: {done:,} of {total:,} rows{left}")


@app.command()
def shadow(
    seconds: Annotated[float | None, typer.Option(help="Seconds to run; without it, until Ctrl-C.")] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two comparisons.")] = 60.0,
) -> None:
    """Let the database decide, deliver new fills to the sheet, and compare both at intervals.

    Run engines with QTS_DATA_SOURCE_MODE=HYBRID meanwhile. Run this command under a supervisor: it is the outbox's
    worker.
    """

    async def work() -> None:
        async with bootstrap.move(load_settings()) as move:
            behind = await move.shadow()
            notes.print(f"the sheet still lacks {behind:,} fills")
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)
            if seconds is not None:
                loop.call_later(seconds, stop.set)
            await move.watch(stop, every_seconds=every, looked=_looked)

    asyncio.run(work())


def _looked(report: ConsistencyReport, status: OutboxStatus) -> None:
    lag = 0.0 if status.lag is None else status.lag.total_seconds()
    console.print(
        f"{report.verified_at:%H:%M:%S} UTC  {len(report.findings)} differences, {status.delivered:,} delivered, "
        f"{status.pending} pending, {status.dead} dead, lag {lag:.1f} s"
    )


@app.command()
def verify(
    tolerance: Annotated[
        list[str] | None, typer.Option(help="TABLE.FIELD=NUMBER, such as positions.avg_price=0.01; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    page: Annotated[Path | None, typer.Option("--html", help="Also write an HTML page to this file.")] = None,
) -> None:
    """Compare both sides. Exit code 0: the same. 1: they differ. 2: the comparison failed."""

    async def work(tolerances: dict[str, Decimal]) -> ConsistencyReport:
        async with bootstrap.move(load_settings()) as move:
            return await move.verify(tolerances=tolerances)

    try:
        report = asyncio.run(work(_tolerances(tolerance or [])))
        if page is not None:
            page.write_text(report.as_html(), encoding="utf-8")
    except QtsDataError as error:
        fail(error, code=2)
    except OSError as error:
        fail(ConfigurationError(f"{page} cannot be written: {error.strerror}"), code=2)
    if as_json:
        print_json(report.as_json())
    else:
        print_report(report)
    if not report.consistent:
        raise typer.Exit(1)


def _tolerances(given: list[str]) -> dict[str, Decimal]:
    found = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            found[name] = Decimal(number)
        except InvalidOperation:
            found[name] = Decimal("NaN")
        if "." not in name or not found[name].is_finite() or found[name] < 0:
            raise ConfigurationError(f"--tolerance {text}: write TABLE.FIELD=NUMBER, such as positions.avg_price=0.01")
    return found


@app.command()
def cutover(
    clean: Annotated[
        int, typer.Option(min=1, help="Required number of comparisons in a row without a difference.")
    ] = 3,
    lag: Annotated[float, typer.Option(min=0, help="Allowed seconds of delay of the sheet.")] = 30.0,
    rollback_days: Annotated[float, typer.Option(min=0, help="Days during which a rollback remains possible.")] = 14.0,
) -> None:
    """Leave the sheet if all conditions hold. Then run engines with QTS_DATA_SOURCE_MODE=DB_ONLY."""
    gates = CutoverGates(
        clean_verifications=clean, lag=dt.timedelta(seconds=lag), rollback=dt.timedelta(days=rollback_days)
    )

    async def work() -> dt.datetime:
        async with bootstrap.move(load_settings()) as move:
            return await move.cutover(gates)

    until = asyncio.run(work())
    console.print("the database decides alone now: run engines with QTS_DATA_SOURCE_MODE=DB_ONLY")
    console.print(f"qts-data migrate rollback works until {until:%Y-%m-%d %H:%M} UTC")


@app.command()
def rollback() -> None:
    """Return to the sheet, with all fills booked since. Stop the engines first."""

    async def work() -> int:
        async with bootstrap.move(load_settings()) as move:
            return await move.rollback()

    delivered = asyncio.run(work())
    console.print(f"delivered {delivered:,} messages; run engines with QTS_DATA_SOURCE_MODE=SHEETS_ONLY")


@app.command()
def status(
    retry: Annotated[bool, typer.Option("--retry", help="Retry refused messages.")] = False,
) -> None:
    """Print the state of the move."""

    async def work() -> MoveStatus:
        async with bootstrap.move(load_settings()) as move:
            if retry:
                notes.print(f"{await move.feed.revive()} messages will be retried")
            return await move.status()

    print_status(asyncio.run(work()))
