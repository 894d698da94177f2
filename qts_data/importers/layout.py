"""Description of a file layout for the command line: its name, its records, the options it needs, and its reader."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from qts_data.contracts.instants import MAX_AHEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qts_data.importers.rows import Refuse

__all__ = ["BarLength", "Layout", "ReadOptions"]

BarLength: TypeAlias = Literal["1m", "1d"]
"""Lengths of bars that have a table: `ohlcv_1m_vendor` and `ohlcv_1d`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """Facts that a file does not contain.

    Attributes:
        symbol: Instrument of every record, in place of the file's; None to take the file's.
        date: Day of the file. For a generic CSV: the day of times without a date.
        source: Feed of every record, in place of the file's; None for the file's, or else the default of the layout.
        time_zone: IANA name of the zone of the file's clock; None for the default of the layout.
        quotes: File of quotes to join with trades.
        columns: For a generic CSV: the file's column for each of our fields.
        time_format: For a generic CSV: `iso`, `s`, `ms`, `us`, `ns` (since 1970), or a pattern for strptime. The
            pattern has a whole date, or none if `date` is given.
        delimiter: For a generic CSV: the character between two columns.
        max_ahead: A trade further ahead of this machine's clock is a bad row; None accepts any time.
    """

    symbol: str | None = None
    date: dt.date | None = None
    source: str | None = None
    time_zone: str | None = None
    quotes: Path | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    time_format: str = "iso"
    delimiter: str = ","
    # Excluded from the text that identifies a loaded file.
    max_ahead: dt.timedelta | None = field(default=MAX_AHEAD, repr=False)


class Read(Protocol):
    """Reads a file."""

    def __call__(self, path: Path, options: ReadOptions, refuse: Refuse | None) -> Iterator[Any]:
        """Read the records in the order of the file. Without `refuse` the first bad row raises `InvalidRecord`."""
        ...


@dataclass(frozen=True, slots=True)
class Layout:
    """A file layout.

    Attributes:
        kind: Whether its records are trades or bars.
        read: The reader.
        needs: Names of `ReadOptions` that must be given.
        length: Length of its bars, or a function that finds it in a file; None for trades.
        symbol: Function that finds the symbol in the name of a file, where the options give none. None if the names of
            such files contain no symbol.
    """

    kind: Literal["ticks", "bars"]
    read: Read
    needs: tuple[str, ...] = ()
    length: BarLength | Callable[[Path], BarLength] | None = None
    symbol: Callable[[Path, ReadOptions], str] | None = None
