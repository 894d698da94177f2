"""Official daily bars: the vendor's last word wins."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.contracts import OHLCV
from qts_data.contracts.checks import check_aware
from qts_data.database.errors import translated_errors
from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["DailyBarReads", "DailyBarRepository", "UpsertReport"]

_BARS_OF_A_STATEMENT: Final = 5_000
_VALUES: Final = "open, high, low, close, volume"

# An update that changes nothing is left out: it would only make work for vacuum and for whoever waits.
_UPSERT: Final = f"""
    WITH given AS (
        SELECT * FROM unnest(CAST(:symbols AS text[]), CAST(:times AS timestamptz[]), CAST(:opens AS numeric[]),
                             CAST(:highs AS numeric[]), CAST(:lows AS numeric[]), CAST(:closes AS numeric[]),
                             CAST(:volumes AS numeric[])) AS g (symbol, time, {_VALUES})),
    written AS (
        INSERT INTO ohlcv_1d AS d (symbol, time, {_VALUES}) SELECT symbol, time, {_VALUES} FROM given
         ORDER BY symbol, time
        ON CONFLICT (symbol, time) DO UPDATE
           SET ({_VALUES}) = (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume)
         WHERE (d.open, d.high, d.low, d.close, d.volume)
               IS DISTINCT FROM (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume)
        RETURNING (d.xmax = 0) AS inserted)
    SELECT count(*) FILTER (WHERE inserted) AS inserted, count(*) FILTER (WHERE NOT inserted) AS updated FROM written
"""


@dataclass(frozen=True, slots=True)
class UpsertReport:
    """What became of daily bars.

    Attributes:
        received: Bars that were handed over.
        inserted: Bars of days that were not there.
        updated: Bars that correct what was there.
        unchanged: Bars that were there as they are.
    """

    received: int
    inserted: int
    updated: int
    unchanged: int


class DailyBarReads:
    """Questions about daily bars, in the transaction of one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list_bars(self, symbols: str | Sequence[str], start: dt.datetime, end: dt.datetime) -> list[OHLCV]:
        """Bars of days that begin in [start, end), in order of time and symbol.

        Raises:
            InvalidRecord: `start` or `end` has no time zone.
        """
        check_aware("start", start)
        check_aware("end", end)
        statement = sa.text(
            f"SELECT symbol, time, {_VALUES} FROM ohlcv_1d WHERE symbol = ANY(:symbols) AND time >= :start "
            "AND time < :end ORDER BY time, symbol"
        )
        names = [symbols] if isinstance(symbols, str) else list(symbols)
        with translated_errors():
            rows = await self._connection.execute(statement, {"symbols": names, "start": start, "end": end})
        return [
            OHLCV(
                time=row.time,
                symbol=row.symbol,
                source="",
                open=row.open,
                high=row.high,
                low=row.low,
                close=row.close,
                volume=row.volume,
                tick_count=0,
            )
            for row in rows
        ]

    async def list_symbols(self) -> list[str]:
        """Symbols that have bars, in their order."""
        statement = sa.text("SELECT DISTINCT symbol FROM ohlcv_1d ORDER BY symbol")
        with translated_errors():
            return list(await self._connection.scalars(statement))


class DailyBarRepository(DailyBarReads):
    """Questions and writes about daily bars, in the transaction of one connection; it never commits."""

    async def upsert(self, bars: Iterable[OHLCV]) -> UpsertReport:
        """Insert bars of new days and correct those that changed.

        Args:
            bars: Read once, lazily. `source` and `tick_count` have no column and are left behind.

        Raises:
            InvalidRecord: A day of a symbol comes twice with different figures: which of them is right?
        """
        received = inserted = updated = 0
        iterator = iter(bars)
        seen: dict[tuple[str, dt.datetime], OHLCV] = {}
        while given := list(itertools.islice(iterator, _BARS_OF_A_STATEMENT)):
            seen = {}
            for row, bar in enumerate(given, start=received + 1):
                before = seen.setdefault((bar.symbol, bar.time), bar)
                if _figures(before) != _figures(bar):
                    raise InvalidRecord(
                        field="time", reason=f"{bar.symbol} {bar.time.isoformat()} comes twice and differs", row=row
                    )
            some = list(seen.values())
            with translated_errors():
                result = await self._connection.execute(
                    sa.text(_UPSERT),
                    {
                        "symbols": [bar.symbol for bar in some],
                        "times": [bar.time for bar in some],
                        "opens": [bar.open for bar in some],
                        "highs": [bar.high for bar in some],
                        "lows": [bar.low for bar in some],
                        "closes": [bar.close for bar in some],
                        "volumes": [bar.volume for bar in some],
                    },
                )
            counts = result.one()
            received += len(given)
            inserted += counts.inserted
            updated += counts.updated
        return UpsertReport(received, inserted, updated, received - inserted - updated)


def _figures(bar: OHLCV) -> tuple[object, ...]:
    return (bar.open, bar.high, bar.low, bar.close, bar.volume)
