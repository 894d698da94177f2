"""The interface of a batch, made from records or from columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["COLUMNS", "KEY", "Batch", "MinuteCount"]

COLUMNS: Final = "symbol, time, source, seq, price, volume, bid, ask"
KEY: Final = "symbol, time, source, seq"


class MinuteCount(NamedTuple):
    """Ticks of one symbol and feed in one minute.

    Attributes:
        symbol: The instrument.
        source: The feed.
        minute: Minutes since 1970 UTC.
        ticks: Number of ticks.
        first: Time of the earliest tick, in microseconds since 1970 UTC.
        last: Time of the latest tick, in microseconds since 1970 UTC.
    """

    symbol: str
    source: str
    minute: int
    ticks: int
    first: int
    last: int


class Batch(Protocol):
    """Ticks with their seq, sorted by the key. A sorted batch loads twice as fast.

    Attributes:
        size: Number of ticks.
        options: Options for COPY to read `blocks`.
        counted: Whether no tick has a seq of the feed's own.
    """

    size: int
    options: str
    counted: bool

    def blocks(self) -> Iterator[bytes | memoryview]:
        """Yield the data for COPY, in pieces that take at most a few milliseconds to make and to send."""
        ...

    def pairs(self) -> set[tuple[str, str]]:
        """Return each symbol and feed in it."""
        ...

    def minutes(self) -> list[MinuteCount]:
        """Count the ticks of each symbol, feed and minute."""
        ...
