"""Minute bars of vendors: the vendor's last word wins, and longer bars are made of them."""

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
    """Questions about minute bars of vendors, in the transaction of one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection, VENDOR_MINUTES)


class MinuteBarRepository(MinuteBarReads):
    """Questions and writes about minute bars of vendors, in the transaction of one connection; it never commits."""

    async def upsert(self, bars: Iterable[OHLCV], *, progress: Callable[[int], None] | None = None) -> UpsertReport:
        """Insert bars of new minutes and correct those that changed; two sources of a symbol are kept apart.

        Args:
            bars: Bars of one minute, read once, lazily. That a bar covers a minute and no more is for the caller to
                know: a bar does not say its length.
            progress: Called now and then with the number of bars so far.

        Raises:
            InvalidRecord: Names the row of a bar that does not begin on a full minute or is implausibly old (see
                `any_time`), or of one that comes twice among 5,000 bars, with different figures: which of them is
                right?
        """
        return await upsert_bars(self._connection, _TABLE, bars, check=_check, progress=progress)


def _check(bar: OHLCV) -> None:
    check_full_minute("time", bar.time)
    plausible("time", bar.time)
