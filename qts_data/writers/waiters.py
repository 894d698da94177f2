"""Tasks that wait until a count has come so far."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Waiters"]


class Waiters:
    """Tasks that wait, in the order of their numbers; one that is cancelled is left out."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def until(self, number: int) -> None:
        """Wait for `release` with at least this number; numbers never fall from one call to the next."""
        released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, released))
        await released

    def release(self, number: int | None = None) -> None:
        """Let those with up to this number go on; None lets all of them, and each looks for itself."""
        while self._waiting and (number is None or self._waiting[0][0] <= number):
            _, released = self._waiting.popleft()
            if not released.done():
                released.set_result(None)
