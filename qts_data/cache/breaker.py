"""A circuit breaker: after some failures in a row the cache is not called for a while."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from qts_data.cache.port import now

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Breaker", "BreakerState"]


class BreakerState(enum.StrEnum):
    """Whether calls go through."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


class Breaker:
    """Counts failures of calls in this process, and stops calls while too many fail. It is independent of Redis.

    CLOSED: calls go through. OPEN: no calls go through. After the recovery time exactly one call goes through,
    HALF_OPEN. If it succeeds the breaker closes, otherwise it stays open for another recovery time. Calls that failed
    together, such as all that waited on one connection, count as one failure. So a short outage under load counts once.

    Args:
        threshold: Failures in a row that open it.
        recovery_seconds: How long it stays open.
        on_change: Called with the new state when it opens and when it closes.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        threshold: int,
        recovery_seconds: float,
        *,
        on_change: Callable[[BreakerState], None] = lambda _: None,
        clock: Callable[[], float] = now,
    ) -> None:
        self._threshold = threshold
        self._recovery = recovery_seconds
        self._on_change = on_change
        self._clock = clock
        self._open_until = 0.0
        self._incident: object = None
        # Valid since the state last changed: a call from before must neither close nor open the breaker.
        self._permit = 1
        self.state: BreakerState = BreakerState.CLOSED
        self.failures: int = 0

    def enter(self) -> int:
        """Return a permit for one call, which `succeeded`, `failed` or `abandoned` gives back. 0 permits no call."""
        if self.state is BreakerState.CLOSED:
            return self._permit
        if self.state is BreakerState.OPEN and self._clock() >= self._open_until:
            self.state = BreakerState.HALF_OPEN
            self._permit += 1
            return self._permit
        return 0

    def succeeded(self, permit: int) -> None:
        """Note that the call was answered."""
        if permit != self._permit:
            return
        if self.state is BreakerState.CLOSED:
            self.failures = 0
        elif self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.CLOSED
            self.failures = 0
            self._permit += 1
            self._on_change(self.state)

    def failed(self, permit: int, incident: object = None) -> None:
        """Note that the call failed.

        Args:
            permit: The permit from `enter`.
            incident: Equal for calls that failed together; None is a separate incident.
        """
        if permit != self._permit or (incident is not None and incident == self._incident):
            return
        self._incident = incident
        self.failures += 1
        if self.state is BreakerState.HALF_OPEN:
            self._open()
        elif self.state is BreakerState.CLOSED and self.failures >= self._threshold:
            self._open()
            self._on_change(self.state)

    def abandoned(self, permit: int) -> None:
        """Note that the call ended without a result, such as by a cancellation. The next call may try."""
        if permit == self._permit and self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
            self._permit += 1

    def _open(self) -> None:
        self.state = BreakerState.OPEN
        self._permit += 1
        self._open_until = self._clock() + self._recovery
        self._incident = None
