"""The whole comparison of a spreadsheet with the database."""

from __future__ import annotations

import datetime as dt
import time
import zoneinfo
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.adapters.consistency.compare import compare
from qts_data.adapters.consistency.report import ConsistencyReport
from qts_data.adapters.consistency.sides import TABLES, database_side, sheets_side
from qts_data.database.errors import translated_errors
from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from qts_data.adapters.sheets.sheets import Workbook
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
) -> ConsistencyReport:
    """Compare a spreadsheet with the database, both ways: missing there, missing here, different.

    Rows are summed up by day and symbol (the ledger), month and symbol (daily bars), account or strategy: count, sums
    of the numbers, and a hash. Rows are compared one by one only in groups whose count or hash differs. Days are those
    of the database's trading time zone.

    Args:
        database: The database.
        workbook: The spreadsheet.
        tables: What to compare.
        tolerances: How far numbers may be apart, by `table.field`; without one they must be equal.
        strict: Raise if anything differs.

    Raises:
        DataConsistencyError: With `strict`: something differs; carries the report.
        ConfigurationError: There is no such table to compare.
        SourceUnavailable: The spreadsheet does not answer.
    """
    started = time.monotonic()
    unknown = {*tables, *(name.partition(".")[0] for name in tolerances)} - set(TABLES)
    if unknown:
        raise ConfigurationError(f"there is no table {min(unknown)!r} to compare; there are {', '.join(TABLES)}")
    async with database.reader() as reader:
        with translated_errors():
            zone = zoneinfo.ZoneInfo(str(await reader.connection.scalar(sa.text("SELECT qts_trading_zone()"))))
    reports = []
    for table in tables:
        # The spreadsheet first: what is booked meanwhile is then missing there, and not here.
        there = await sheets_side(workbook, table, zone)
        here = await database_side(database, table, zone)
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
