"""Where a manager's values come from, and how it learns of commits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from qts_data.contracts import BookedFill, LedgerEntry, Position
from qts_data.contracts.live import RiskLimits, StrategyParameters

__all__ = ["Loaders", "PositionCommitted"]


class PositionCommitted(Protocol):
    """To be called once COMMIT has returned, in the same turn of the event loop."""

    def __call__(self, position: Position, held_at: float) -> None:
        """A commit made this position.

        Args:
            position: The position as it was committed.
            held_at: `time.monotonic()` at a moment between the writing of the row and its COMMIT: its lock was held,
                so nothing newer existed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaders:
    """Where values come from.

    Attributes:
        position: Reads the position of (symbol, account) in a transaction of its own; None if there is none.
        risk: Reads the limits of an account, its own ones only; those of all accounts as the account `*`.
        strategy: Reads the parameters of a strategy.
        record_fill: Books a fill in a transaction of its own, and calls back after its COMMIT.
    """

    position: Callable[[str, str], Awaitable[Position | None]]
    risk: Callable[[str], Awaitable[RiskLimits | None]]
    strategy: Callable[[str], Awaitable[StrategyParameters | None]]
    record_fill: Callable[[LedgerEntry, PositionCommitted], Awaitable[BookedFill]]
