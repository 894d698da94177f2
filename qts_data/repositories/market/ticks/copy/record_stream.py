"""Ticks of a server's cursor, piece by piece.

While one piece is decoded, the next one is fetched, as long as the reader waits. While the reader works, the connection
is idle, so the reader may run statements of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, Protocol

from qts_data.repositories.market.ticks.copy.decoding_columns import RECORD
from qts_data.repositories.market.ticks.copy.fetching import fetch

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from qts_data.database.streaming import Cursor
    from qts_data.repositories.market.ticks.copy.decoding import Decoded
    from qts_data.repositories.market.ticks.copy.decoding_columns import Layout

__all__ = ["Decode", "RecordStream"]

# The first tick comes soon; later pieces are larger, for speed.
_FIRST_ROWS: Final = 2_000
_ROWS: Final = 16_000
_PIECES_AT_ONCE: Final = 6
_FEED: Final = slice(2 * RECORD.feed, 2 * RECORD.feed + 4)
_UNKNOWN: Final = bytes(4)


class Decode(Protocol):
    """A function that decodes whole rows."""

    def __call__(self, rows: bytes, symbol: str, sources: list[str], layout: Layout = ..., /) -> Awaitable[Decoded]:
        """Decode rows of a layout."""


class RecordStream:
    """Decoded pieces of a cursor. Each of its rows is a record, and the name of a source that the list lacks.

    Args:
        cursor: The cursor.
        symbol: Symbol of all its ticks.
        sources: Names of the feeds 1, 2 and so on.
        decode: The function that makes a piece.
    """

    def __init__(self, cursor: Cursor, symbol: str, sources: list[str], decode: Decode) -> None:
        self._cursor = cursor
        self._symbol = symbol
        self._sources = sources
        self._decode = decode
        self._ended = False
        self._begun = False

    async def next(self) -> list[Any] | None:
        """Read some pieces. None after the last one."""
        if self._ended:
            return None
        pieces: list[Any] = []
        fetched = await self._fetch()
        for left in reversed(range(_PIECES_AT_ONCE if self._begun else 1)):
            following = asyncio.ensure_future(self._fetch()) if left and not self._ended else None
            try:
                await asyncio.sleep(0)  # the request is sent before the piece is decoded
                if fetched.ntuples:
                    pieces.append(await self._decoded(fetched))
            except BaseException:
                if following is not None:
                    following.cancel()
                    with contextlib.suppress(Exception, asyncio.CancelledError):
                        await following
                raise
            if following is None:
                break
            fetched = await following
        self._begun = True
        return pieces

    async def _fetch(self) -> Any:
        self._cursor.require_open()
        rows = _ROWS if self._begun else _FIRST_ROWS
        result = await fetch(self._cursor.connection, self._cursor.name, rows)
        self._ended = result.ntuples < rows
        return result

    async def _decoded(self, fetched: Any) -> Any:
        get = fetched.get_value
        rows = [get(row, 0) for row in range(fetched.ntuples)]
        piece, _, strange = await self._decode(b"".join(rows), self._symbol, self._sources, RECORD)
        if strange:
            # Another program than this package stored these ticks, or another session did so a moment ago.
            piece, *_ = await self._decode(self._named(rows, get), self._symbol, self._sources, RECORD)
        return piece

    def _named(self, rows: list[bytes], get: Any) -> bytes:
        """Return the rows with a number for each source that the statement did not know."""
        sources = list(self._sources)
        numbers = {name: number for number, name in enumerate(sources, start=1)}
        named = []
        for place, row in enumerate(rows):
            if row[_FEED] == _UNKNOWN:
                name = get(place, 1).decode()
                if name not in numbers:
                    sources.append(name)
                    numbers[name] = len(sources)
                row = row[: _FEED.start] + numbers[name].to_bytes(4) + row[_FEED.stop :]  # noqa: PLW2901
            named.append(row)
        self._sources = sources
        return b"".join(named)
