"""The quota of an API: a number of calls in any minute."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Quota"]

_MINUTE: Final = 60.0
_SHORTEST: Final = 0.001
"""The clock may not move at all during a shorter pause."""


class Quota:
    """Allows a number of calls in any 60 seconds. Further calls wait.

    Args:
        per_minute: Largest number of calls in any minute.
        clock: Returns the time in seconds.
        sleep: Waits for some seconds.

    Attributes:
        calls: Number of calls allowed so far.
        waited_seconds: Waiting time of all calls together.
    """

    def __init__(
        self,
        per_minute: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._sleep = sleep
        self._recent: deque[float] = deque()
        self._turn = asyncio.Lock()
        self.calls: int = 0
        self.waited_seconds: float = 0.0

    async def take(self) -> None:
        """Wait until a call is allowed, and count it."""
        async with self._turn:
            while len(self._recent) >= self._per_minute:
                pause = self._recent[0] + _MINUTE - self._clock()
                if pause <= 0:
                    self._recent.popleft()
                    continue
                self.waited_seconds += pause
                await self._sleep(max(pause, _SHORTEST))
            self._recent.append(self._clock())
            self.calls += 1
