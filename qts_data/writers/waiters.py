"""Tasks that wait until a count reaches their number."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Waiters"]


class Waiters:
    """Waiting tasks, in the order of their numbers. Cancelled ones are skipped."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def until(self, number: int) -> None:
        """Wait for `release` with at least this number. Numbers never decrease from one call to the next."""
        released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, released))
        await released

    def release(self, number: int | None = None) -> None:
        """Wake the tasks with up to this number. None wakes all tasks, and each checks for itself."""
        while self._waiting and (number is None or self._waiting[0][0] <= number):
            _, released = self._waiting.popleft()
            if not released.done():
                released.set_result(None)
