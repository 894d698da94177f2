"""Upserts of vendors' bars. The vendor's latest version of a bar replaces earlier ones."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from qts_data.database.errors import translated_errors
from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import OHLCV

__all__ = ["BarTable", "UpsertReport", "upsert_bars"]

_BARS_OF_A_STATEMENT: Final = 5_000
_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"symbol": "text", "time": "timestamptz", "source": "text", "tick_count": "bigint"}
)

# Unchanged bars are not written: that would make work for vacuum, hold locks, and turn columns of old chunks back into
# rows. ON CONFLICT covers bars that another transaction has inserted since the read. It compares the columns once more
# with that transaction's row.
_UPSERT: Final = """
    WITH given AS MATERIALIZED (SELECT * FROM unnest({arrays}) AS g ({key}, {figures})),
    news AS (
        SELECT g.* FROM given AS g
          LEFT JOIN (SELECT {key}, {figures} FROM {table}
                      WHERE symbol = ANY(:symbols) AND time BETWEEN :first AND :last) AS d USING ({key})
         WHERE d.time IS NULL OR ({stored}) IS DISTINCT FROM ({new})),
    written AS (
        INSERT INTO {table} AS d ({key}, {figures}) SELECT {key}, {figures} FROM news ORDER BY {key}
        ON CONFLICT ({key}) DO UPDATE SET ({figures}) = ROW ({excluded})
         WHERE ({stored}) IS DISTINCT FROM ({excluded})
        RETURNING (d.xmax = 0) AS inserted)
    SELECT count(*) FILTER (WHERE inserted) AS inserted, count(*) FILTER (WHERE NOT inserted) AS updated FROM written
"""


@dataclass(frozen=True, slots=True)
class BarTable:
    """A table of bars.

    Attributes:
        name: Name of the table.
        key: Columns of its key, including symbol and time.
        figures: The other columns, which a correction changes.
    """

    name: str
    key: tuple[str, ...]
    figures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UpsertReport:
    """The result of an upsert of bars.

    Attributes:
        received: Bars that the caller gave.
        inserted: New bars.
        updated: Bars that corrected stored bars.
        unchanged: Bars that were stored already, with equal figures.
    """

    received: int
    inserted: int
    updated: int
    unchanged: int


async def upsert_bars(
    connection: AsyncConnection,
    table: BarTable,
    bars: Iterable[OHLCV],
    *,
    check: Callable[[OHLCV], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> UpsertReport:
    """Insert new bars and correct changed bars, 5,000 in a statement.

    Args:
        connection: In a transaction.
        table: The target table.
        bars: Read once, lazily.
        check: Raises `InvalidRecord` for a bar that the table would refuse.
        progress: Called after each statement with the number of bars so far.

    Raises:
        InvalidRecord: `check` refuses a row, or two rows among the up to 5,000 of a statement have the same key and
            different figures. The message names the row.
    """
    statement = sa.text(_statement(table))
    received = inserted = updated = 0
    iterator = iter(bars)
    while given := list(itertools.islice(iterator, _BARS_OF_A_STATEMENT)):
        some = _distinct(table, given, received + 1, check)
        columns: dict[str, Any] = {
            column: [getattr(bar, column) for bar in some] for column in (*table.key, *table.figures)
        }
        bounds = {
            "symbols": sorted(set(columns["symbol"])),
            "first": min(columns["time"]),
            "last": max(columns["time"]),
        }
        with translated_errors():
            counts = (await connection.execute(statement, columns | bounds)).one()
        received += len(given)
        inserted += counts.inserted
        updated += counts.updated
        if progress is not None:
            progress(received)
    return UpsertReport(received, inserted, updated, received - inserted - updated)


@functools.cache
def _statement(table: BarTable) -> str:
    def listed(columns: Sequence[str], before: str = "") -> str:
        return ", ".join(before + column for column in columns)

    return _UPSERT.format(
        table=table.name,
        key=listed(table.key),
        figures=listed(table.figures),
        arrays=", ".join(
            f"CAST(:{column} AS {_TYPES.get(column, 'numeric')}[])" for column in (*table.key, *table.figures)
        ),
        stored=listed(table.figures, "d."),
        new=listed(table.figures, "g."),
        excluded=listed(table.figures, "excluded."),
    )


def _distinct(
    table: BarTable, bars: Sequence[OHLCV], first_row: int, check: Callable[[OHLCV], None] | None
) -> list[OHLCV]:
    """Return each key once, because a statement cannot write a row twice."""
    seen: dict[tuple[object, ...], OHLCV] = {}
    for row, bar in enumerate(bars, start=first_row):
        if check is not None:
            try:
                check(bar)
            except InvalidRecord as error:
                raise error.at(row) from error
        before = seen.setdefault(_values(bar, table.key), bar)
        if before is not bar and _values(before, table.figures) != _values(bar, table.figures):
            raise InvalidRecord(
                field="time", reason=f"{bar.symbol} {bar.time.isoformat()} comes twice and differs", row=row
            )
    return list(seen.values())


def _values(bar: OHLCV, columns: Sequence[str]) -> tuple[object, ...]:
    return tuple(getattr(bar, column) for column in columns)
