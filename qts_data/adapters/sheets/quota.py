"""The quota of an API: so many calls in any minute."""

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
"""A shorter pause may not move the clock at all."""


class Quota:
    """Lets so many calls through in any 60 seconds; the others wait.

    Args:
        per_minute: Most calls in any minute.
        clock: Seconds.
        sleep: Waits.

    Attributes:
        calls: Calls that were let through.
        waited_seconds: How long calls have waited, all together.
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
