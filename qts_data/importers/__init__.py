"""Market-data file layouts and how to read them: one layout a module.

`FORMATS` is what a user can name, as in `qts-data import ticks FILE --format lean-trade`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from qts_data.importers import lean_trade

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from qts_data.contracts import TickData

__all__ = ["FORMATS", "TickReader"]


class TickReader(Protocol):
    """Reads the ticks of one symbol and day from a file; each reader has its own usual source and zone."""

    def __call__(
        self, path: Path, symbol: str, date: dt.date, source: str = ..., time_zone: str = ...
    ) -> Iterator[TickData]:
        """The ticks in the order of the file; `InvalidRecord` carries the row of a malformed one."""
        ...


FORMATS: Mapping[str, TickReader] = MappingProxyType({"lean-trade": lean_trade.read_ticks})
"""Readers of tick files by the name of their layout."""
