"""The demo of bars, from an empty machine to the bars of a day."""

from __future__ import annotations

import asyncio
import datetime as dt
import shlex
import sys
import zoneinfo
from typing import TYPE_CHECKING

from pydantic import SecretStr

from qts_data import bootstrap
from qts_data.database import migrations
from qts_data.database.engine import parse_url
from qts_data.demo.krx_day import generate_day
from qts_data.embedded import EmbeddedServer
from qts_data.operations import market
from qts_data.operations.status import read_status
from qts_data.settings import load_settings
from qts_data.terminal.console import console, heading, progress_of
from qts_data.terminal.market import print_bars, print_import
from qts_data.terminal.schema import print_status

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["run_demo"]

SEOUL = zoneinfo.ZoneInfo("Asia/Seoul")
# A fixed day, so that every run shows the same figures: a Friday on which KRX traded.
DAY = dt.date(2026, 11, 20)
SYMBOL = "005930"


def run_demo(directory: Path, *, keep: bool) -> None:
    """Start a server for the demo, migrate, load ticks, and show bars."""
    server = EmbeddedServer(directory)
    heading("1. Start PostgreSQL")
    running = server.start()
    server.ensure_database("qts")
    url = running.url("qts")
    console.print(f"   pid {running.pid}, data in {running.data_directory}", soft_wrap=True)
    try:
        _show(url)
    finally:
        if not keep:
            server.stop()
    if keep:
        console.print()
        heading("What to type next")
        program = shlex.quote(sys.argv[0])
        for line in (
            f"export QTS_DATABASE_URL={shlex.quote(url)}",
            f"{program} status",
            f"{program} bars {SYMBOL} --interval 1h --date {DAY}",
            f"{program} import ticks FILE --format lean-trade --symbol SPY --date 2013-10-07",
            f"QTS_DEV_DIRECTORY={shlex.quote(str(directory))} {program} dev down --delete",
        ):
            console.print(f"   {line}", soft_wrap=True)


def _show(url: str) -> None:
    settings = load_settings().model_copy(update={"database_url": SecretStr(url)})
    heading("2. Migrate")
    migrations.upgrade(parse_url(url))
    with bootstrap.connect(settings) as connection:
        console.print(f"   revision {migrations.revision_of(connection).database}")

    heading("3. Load a day of ticks", " (generated: KRX tick sizes, session 09:00 to 15:30)")
    ticks = list(generate_day(DAY))
    with progress_of("   ticks", console, len(ticks)) as show:
        report = asyncio.run(market.import_ticks(settings, ticks, show))
    print_import(report)

    start = dt.datetime.combine(DAY, dt.time(), SEOUL)
    end = start + dt.timedelta(days=1)
    console.print()
    minutes = asyncio.run(market.list_bars(settings, SYMBOL, start, end, "1m"))
    print_bars(f"{SYMBOL}, the last 10 of {len(minutes)} one-minute bars, {DAY} KST, KRW", minutes[-10:], SEOUL)
    console.print()
    hours = asyncio.run(market.list_bars(settings, SYMBOL, start, end, "1h"))
    print_bars(f"{SYMBOL}, one-hour bars, {DAY} KST, KRW", hours, SEOUL)
    console.print()
    heading("4. What this database is")
    print_status(read_status(settings), settings.trading_time_zone)
