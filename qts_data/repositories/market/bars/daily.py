"""Official daily bars. The vendor's latest version of a bar replaces earlier ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.contracts import OHLCV
from qts_data.contracts.identity import names_of
from qts_data.contracts.instants import utc
from qts_data.contracts.leniency import as_stored
from qts_data.database.errors import translated_errors
from qts_data.repositories.market.bars.frame import Bars
from qts_data.repositories.market.bars.upsert import BarTable, UpsertReport, upsert_bars

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["DailyBarReads", "DailyBarRepository"]

_FIGURES: Final = ("open", "high", "low", "close", "volume")
_VALUES: Final = ", ".join(_FIGURES)
_TABLE: Final = BarTable("ohlcv_1d", key=("symbol", "time"), figures=_FIGURES)


class DailyBarReads:
    """Queries about daily bars, in the transaction of one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list_bars(self, symbols: str | Sequence[str], start: dt.datetime, end: dt.datetime) -> Bars:
        """List the bars of days that begin in [start, end), in order of time and symbol.

        Raises:
            InvalidRecord: `start` or `end` has no time zone.
        """
        start, end = utc("start", start), utc("end", end)
        statement = sa.text(
            f"SELECT symbol, time, {_VALUES} FROM ohlcv_1d WHERE symbol = ANY(:symbols) AND time >= :start "
            "AND time < :end ORDER BY time, symbol"
        )
        names = names_of("symbol", symbols)
        with translated_errors():
            rows = await self._connection.execute(statement, {"symbols": names, "start": start, "end": end})
        with as_stored():
            return Bars(
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
            )

    async def list_symbols(self) -> list[str]:
        """List the symbols that have bars, sorted."""
        statement = sa.text("SELECT DISTINCT symbol FROM ohlcv_1d ORDER BY symbol")
        with translated_errors():
            return list(await self._connection.scalars(statement))


class DailyBarRepository(DailyBarReads):
    """Queries and writes about daily bars, in the transaction of one connection. It never commits."""

    async def upsert(self, bars: Iterable[OHLCV], *, progress: Callable[[int], None] | None = None) -> UpsertReport:
        """Insert bars of new days, and correct changed bars.

        Args:
            bars: Read once, lazily. `source` and `tick_count` have no column and are not stored.
            progress: Called from time to time with the number of bars so far.

        Raises:
            InvalidRecord: A day of a symbol comes twice among 5,000 bars, with different figures. It is unknown which
                of them is right.
        """
        return await upsert_bars(self._connection, _TABLE, bars, progress=progress)
