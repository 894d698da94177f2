"""SQL functions whose rendering depends on the server's edition."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from qts_data.timescale.intervals import Interval, IntervalLike

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["BUCKET_ORIGIN", "time_bucket"]

BUCKET_ORIGIN: Final = "2000-01-03 00:00:00+00"
"""Origin of TimescaleDB's fixed-length buckets. It is a Monday, so that weeks begin on Mondays."""

_MONTHS: Final = {1: "month", 3: "quarter", 12: "year"}
"""Lengths in months with the same starts as in TimescaleDB, which counts months from January 2000."""


class time_bucket(FunctionElement[dt.datetime]):  # noqa: N801 - it is written like the SQL function
    """Start of the bucket that holds an instant: `time_bucket("1 minute", table.c.time)`.

    It renders TimescaleDB's `time_bucket(INTERVAL '1 minute', time)`. For plain PostgreSQL (see
    `qts_data.timescale.ddl.render_select`) it renders the equal `date_bin` with TimescaleDB's origin, or `date_trunc`
    for one month, three or twelve. By the declared type of its column, a time without zone stays without zone, and a
    date a date. The width is an interval literal, not a bound `timedelta`. The server folds a literal to the same
    normal form in every view, so definitions can be compared.

    Source: https://docs.tigerdata.com/api/latest/hyperfunctions/time_bucket/
    """

    inherit_cache: bool = True
    name = "time_bucket"
    type: sa.types.TypeEngine[Any] = sa.TIMESTAMP(timezone=True)

    def __init__(self, width: IntervalLike, column: sa.ColumnElement[Any]) -> None:
        self.width: Interval = Interval.parse(width)
        if isinstance(column.type, sa.Date | sa.DateTime):
            self.type = column.type
        # The width is part of the clause, so that it is part of the statement cache's key.
        super().__init__(sa.literal_column(self.width.sql, sa.Interval()), column)


@compiles(time_bucket)
def _render_time_bucket(element: time_bucket, compiler: SQLCompiler, **kw: Any) -> str:
    width, column = element.clauses
    arguments = f"{compiler.process(width, **kw)}, {compiler.process(column, **kw)}"
    if getattr(compiler.dialect, "has_time_bucket", True):
        return f"time_bucket({arguments})"
    kind: Any = element.type
    dated, zoned = isinstance(kind, sa.Date), not isinstance(kind, sa.Date) and kind.timezone
    if element.width.months:
        unit = _MONTHS.get(element.width.months)
        if unit is None or element.width.microseconds:
            raise sa.exc.CompileError(
                f"plain PostgreSQL has no bucket of {element.width}: use days, or 1, 3 or 12 months"
            )
        zone = ", 'UTC'" if zoned else ""
        # Without the cast, a date would first become an instant in the session's zone.
        time = f"CAST({compiler.process(column, **kw)} AS timestamp)" if dated else compiler.process(column, **kw)
        start = f"date_trunc('{unit}', {time}{zone})"
    else:
        origin = f"TIMESTAMPTZ '{BUCKET_ORIGIN}'" if zoned else f"TIMESTAMP '{BUCKET_ORIGIN.removesuffix('+00')}'"
        start = f"date_bin({arguments}, {origin})"
    return f"CAST({start} AS date)" if dated else start
