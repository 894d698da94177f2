"""A server's clock, as two bounds that hold without synchronised clocks."""

from __future__ import annotations

from typing import Final

__all__ = ["ServerClock"]

_GENERATION_SECONDS: Final = 10.0
# Two clocks that drift by 100 ppm differ by 2 ms after two generations. A greater difference means a clock was set.
_TOLERANCE_SECONDS: Final = 0.002


class ServerClock:
    """Bounds of (server's clock - `time.monotonic()`), from the times that the server puts into its answers.

    The server read its clock between our sending and our receiving. So the offset is at most (its time - time of
    sending) and at least (its time - time of receiving). Every sample narrows it (D. L. Mills, RFC 5905, the
    intersection of intervals). Samples expire after 10 to 20 seconds, because clocks drift.

    Times written by another server's clock, or by this one before it was set, are off by the difference.

    Attributes:
        low: Lower bound of the offset in seconds. An expiry computed from it is never too late.
        high: Upper bound of the offset in seconds. With it, a time of the server's clock is never placed too late.
        sampled_at: `time.monotonic()` of the newest sample; -inf before the first.
    """

    __slots__ = ("_begun", "_current", "_former", "high", "low", "sampled_at")

    def __init__(self) -> None:
        self.low: float = float("-inf")
        self.high: float = float("inf")
        self.sampled_at: float = float("-inf")
        self._begun = float("-inf")
        self._current = self._former = (self.low, self.high)

    def sample(self, server_seconds: float, sent_at: float, received_at: float) -> None:
        """Narrow the bounds by an answer. `sent_at` and `received_at` are times of `time.monotonic()`."""
        low, high = server_seconds - received_at, server_seconds - sent_at
        if received_at - self._begun > _GENERATION_SECONDS:
            is_next = received_at - self._begun <= 2 * _GENERATION_SECONDS
            self._former = self._current if is_next else (float("-inf"), float("inf"))
            self._current = (float("-inf"), float("inf"))
            self._begun = received_at
        current = (max(low, self._current[0]), min(high, self._current[1]))
        if max(current[0], self._former[0]) > min(current[1], self._former[1]) + _TOLERANCE_SECONDS:
            # The server's clock was set. Only the new sample counts.
            current, self._former = (low, high), (float("-inf"), float("inf"))
        self._current = current
        self.low = max(current[0], self._former[0])
        self.high = max(self.low, min(current[1], self._former[1]))
        self.sampled_at = received_at
