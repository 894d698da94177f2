"""The whole comparison of a spreadsheet with the database."""

from __future__ import annotations

import datetime as dt
import time
import zoneinfo
from typing import TYPE_CHECKING, Final

from qts_data.database.errors import translated_errors
from qts_data.database.trading_zone import find_trading_zone
from qts_data.errors import ConfigurationError
from qts_data.moving.consistency.compare import compare
from qts_data.moving.consistency.report import ConsistencyReport
from qts_data.moving.consistency.sides import TABLES, database_side, sheets_side
from qts_data.repositories.moving.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from qts_data.adapters.sheets.sheets import Workbook
    from qts_data.moving.consistency.sides import Side
    from qts_data.repositories import Database

__all__ = ["verify_data_consistency"]

_NONE: Final[dict[str, Decimal]] = {}


async def verify_data_consistency(
    database: Database,
    workbook: Workbook,
    *,
    tables: Sequence[str] = TABLES,
    tolerances: Mapping[str, Decimal] = _NONE,
    strict: bool = False,
    source: str = "sheets",
) -> ConsistencyReport:
    """Compare a spreadsheet with the database, both ways: missing there, missing here, different.

    Rows form groups by day and symbol (the ledger), month and symbol (daily bars), account or strategy. Each group has
    a count, sums of its numbers, and a hash. Only in groups whose count or hash differs are rows compared one by one.
    Days are those of the database's trading time zone.

    Args:
        database: The database.
        workbook: The spreadsheet.
        tables: Names of the tables to compare.
        tolerances: Allowed difference of numbers, by `table.field`; without a tolerance they must be equal.
        strict: Raise if anything differs.
        source: Name of the spreadsheet in the outbox. Fills that were pending for it, or were booked, while both sides
            were read are left out, with their positions. A note gives their number.

    Raises:
        DataConsistencyError: With `strict`: something differs; the error carries the report.
        ConfigurationError: `tables` contains an unknown name.
        SourceUnavailable: The spreadsheet does not answer.
    """
    started = time.monotonic()
    unknown = {*tables, *(name.partition(".")[0] for name in tolerances)} - set(TABLES)
    if unknown:
        raise ConfigurationError(f"unknown table {min(unknown)!r}; the comparable tables are {', '.join(TABLES)}")
    async with database.reader() as reader:
        with translated_errors():
            zone = zoneinfo.ZoneInfo(str(await reader.connection.run_sync(find_trading_zone)))
    reports = []
    for table in tables:
        async with database.reader() as reader:
            horizon = await Outbox(reader.connection, source).horizon()
        there = await sheets_side(workbook, table, zone)
        here = await database_side(database, table, zone)
        async with database.reader() as reader:
            _leave_out(table, here, there, await Outbox(reader.connection, source).under_way(horizon))
        own = {name.partition(".")[2]: value for name, value in tolerances.items() if name.startswith(f"{table}.")}
        reports.append(compare(table, here, there, tolerances=own))
    report = ConsistencyReport(
        here="database",
        there=f"spreadsheet {workbook.client.config.spreadsheet_id}",
        verified_at=dt.datetime.now(dt.UTC),
        seconds=round(time.monotonic() - started, 3),
        tolerances={name: str(value) for name, value in tolerances.items()},
        tables=tuple(reports),
    )
    if strict:
        report.require_consistent()
    return report


def _leave_out(table: str, here: Side, there: Side, under_way: list[tuple[str, str, str, str]]) -> None:
    keys: set[tuple[str, ...]] = set()
    if table == "ledger":
        keys = {(broker, account, execution_id) for broker, account, execution_id, _ in under_way}
    elif table == "positions":
        keys = {(account, symbol) for _, account, _, symbol in under_way}
    if keys:
        for side in (here, there):
            side.items = [item for item in side.items if item.key not in keys]
        here.notes.append(f"{len(keys)} {table} were under way to the spreadsheet and are not compared")
