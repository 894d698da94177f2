"""Minute bars of vendors, and longer bars made from them. A vendor's latest version of a bar replaces the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qts_data.contracts.checks import check_full_minute
from qts_data.contracts.instants import plausible
from qts_data.repositories.market.bars.reads import VENDOR_MINUTES, BarReads
from qts_data.repositories.market.bars.upsert import BarTable, UpsertReport, upsert_bars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import OHLCV

__all__ = ["MinuteBarReads", "MinuteBarRepository"]

_TABLE: Final = BarTable(
    VENDOR_MINUTES,
    key=("symbol", "time", "source"),
    figures=("open", "high", "low", "close", "volume", "tick_count"),
)


class MinuteBarReads(BarReads):
    """Queries about minute bars of vendors, in the transaction of one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection, VENDOR_MINUTES)


class MinuteBarRepository(MinuteBarReads):
    """Queries and writes about minute bars of vendors, in the transaction of one connection. It never commits."""

    async def upsert(self, bars: Iterable[OHLCV], *, progress: Callable[[int], None] | None = None) -> UpsertReport:
        """Insert bars of new minutes, and correct changed bars. Two sources of a symbol stay separate.

        Args:
            bars: Bars of one minute, read once, lazily. A bar does not hold its length, so the caller must ensure that
                each bar covers one minute.
            progress: Called from time to time with the number of bars so far.

        Raises:
            InvalidRecord: A bar does not begin on a full minute or is implausibly old (see `any_time`). Or it comes
                twice among 5,000 bars, with different figures. The message names the row.
        """
        return await upsert_bars(self._connection, _TABLE, bars, check=_check, progress=progress)


def _check(bar: OHLCV) -> None:
    check_full_minute("time", bar.time)
    plausible("time", bar.time)
