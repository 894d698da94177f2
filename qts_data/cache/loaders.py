"""Loaders: the sources of a manager's values, and the callback for commits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from qts_data.contracts import BookedFill, LedgerEntry, Position
from qts_data.contracts.live import RiskLimits, StrategyParameters

__all__ = ["Loaders", "PositionCommitted"]


class PositionCommitted(Protocol):
    """A callback for a committed position, called once COMMIT has returned, in the same turn of the event loop."""

    def __call__(self, position: Position, held_at: float) -> None:
        """Take the position that a commit made.

        Args:
            position: The position as it was committed.
            held_at: `time.monotonic()` at a moment between the writing of the row and its COMMIT. The row was locked
                then, so no newer one existed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaders:
    """The sources of the values.

    Attributes:
        position: Reads the position of (symbol, account) in a transaction of its own; None if there is none.
        risk: Reads the limits of an account alone. The limits of all accounts are those of the account `*`.
        strategy: Reads the parameters of a strategy.
        record_fill: Books a fill in a transaction of its own, and calls back after its COMMIT.
    """

    position: Callable[[str, str], Awaitable[Position | None]]
    risk: Callable[[str], Awaitable[RiskLimits | None]]
    strategy: Callable[[str], Awaitable[StrategyParameters | None]]
    record_fill: Callable[[LedgerEntry, PositionCommitted], Awaitable[BookedFill]]
