"""The port on Redis 6.2 or newer. An atomic script replaces, fences and expires each hash."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import time
import zlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from qts_data.cache.keys import Keys
from qts_data.cache.near import NEAR_TYPES
from qts_data.cache.port import MISSING, BookSides, Cache, Entry, Missing, now, version_text
from qts_data.cache.routing import ClusterRoute, LinkMaker, SingleRoute
from qts_data.cache.scripts import GET_BOOK_SHA, SCRIPTS, SET_BOOK_SHA, SET_SHA
from qts_data.cache.wire import Refusal, pack
from qts_data.contracts import HealthStatus
from qts_data.errors import CacheError, CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qts_data.cache.link import Link
    from qts_data.cache.near import NearCache
    from qts_data.cache.port import BookWrite, Write
    from qts_data.contracts.cache import CacheConfig

__all__ = ["RedisCache"]

_LOAD: Final = [pack("SCRIPT", "LOAD", script) for script in SCRIPTS]
_PING: Final = pack("PING")
_ASKING: Final = pack("ASKING")
_MOST_ATTEMPTS: Final = 6
_NONE: Final = "_none"
_TOMBSTONE: Final = "_gone"
_CLOCK_TOLERANCE_SECONDS: Final = 0.005
"""How far an entry's time may be ahead of now. Our bounds of the server's clock are no more exact."""


class RedisCache(Cache):
    """Values in Redis: one server, the master that Sentinels name, or a cluster.

    One connection to each server carries the commands of all tasks. It belongs to the event loop that first uses it.

    Args:
        config: Address and timeouts of Redis.
        near: Notified of every change of its keys, and of every lost connection.

    Raises:
        ConfigurationError: The URL cannot be read.
    """

    def __init__(self, config: CacheConfig, *, near: NearCache | None = None) -> None:
        self._config = config
        self._near = near
        preamble = list(_LOAD)
        if near is not None:
            starts = Keys(config.prefix).starts(NEAR_TYPES)
            near.tracked_starts = tuple(starts)
            prefixes = [word for start in starts for word in ("PREFIX", start)]
            preamble.append(pack("CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP", *prefixes))
        maker = LinkMaker(config, preamble=preamble, on_push=self._pushed, on_lost=self._lost)
        self._route = ClusterRoute(maker) if config.cluster else SingleRoute(maker)
        # The shortcut for a single server saves a third of a read's own time.
        self._only: Link | None = self._route.link if isinstance(self._route, SingleRoute) else None

    async def lookup(self, key: str, *, stale: bool = False) -> Entry | Missing:
        """Return the entry of a key: value, version and times.

        Raises:
            CacheTimeout: No answer in time.
            CacheUnavailable: No connection, or the server refuses.
        """
        payload = pack("HGETALL", key)
        link = self._only
        if link is None:
            link, answer = await self._ask(key, _always(payload))
        else:
            answer = await link.call(payload)
        return self._entry(key, answer, link, now(), stale=stale)

    async def lookup_many(self, keys: Sequence[str], *, stale: bool = False) -> list[Entry | Missing]:
        """Return the entries of many keys, in their order, in one round trip to each server.

        Raises:
            CacheTimeout: No answer in time.
            CacheUnavailable: No connection, or the server refuses.
        """
        link = self._only
        if link is None or len(keys) < 2:
            # Each link sends the commands of one turn of the loop together.
            return await _together([self.lookup(key, stale=stale) for key in keys])
        answers = await link.call(b"".join([pack("HGETALL", key) for key in keys]), len(keys))
        time_now = now()
        return [
            self._entry(key, answer, link, time_now, stale=stale) for key, answer in zip(keys, answers, strict=True)
        ]

    async def set_many(self, writes: Sequence[Write]) -> list[bool]:
        """Write each value, and return for each whether it was taken.

        Raises:
            CacheTimeout: No answer in time. The values may or may not have been written.
            CacheUnavailable: No connection, or the server refuses.
        """
        return await _together([self._set(write) for write in writes])

    async def delete(self, *keys: str) -> int:
        """Remove values and their fences, and return how many keys existed."""
        answers = await _together([self._ask(key, _always(pack("UNLINK", key))) for key in keys])
        return sum(self._number(answer, link) for link, answer in answers)

    async def set_book(self, write: BookWrite) -> bool:
        """Replace both sides of an order book at once. False if a newer one is there."""

        def command(link: Link) -> bytes:
            at = math.floor((link.clock.low + read_at) * 1000)
            words: list[str | bytes | int] = [
                *("EVALSHA", SET_BOOK_SHA, 3, write.bid_key, write.ask_key, write.meta_key),
                *(write.version, at + write.ttl_ms, at, len(write.bids), len(write.asks)),
            ]
            tag = _tag(write.meta_key, write.version)
            for price, size in (*write.bids, *write.asks):
                words += (price, f"{price}:{size}:{tag}")
            for name, text in write.fields.items():
                words += (name, text)
            return pack(*words)

        read_at = now()
        return await self._write(write.meta_key, command)

    async def get_book(self, bid_key: str, ask_key: str, meta_key: str, *, levels: int) -> BookSides | Missing:
        """Return the best levels of both sides, both of the same write."""
        payload = pack("EVALSHA", GET_BOOK_SHA, 3, bid_key, ask_key, meta_key, levels)
        link, answer = await self._ask(meta_key, _always(payload))
        if isinstance(answer, Refusal):
            if "WRONGTYPE" in str(answer):
                return MISSING
            raise self._refused(answer, link)
        if not answer:
            return MISSING
        flat, bids, asks = answer
        meta = self._entry(meta_key, dict(zip(flat[::2], flat[1::2], strict=True)), link, now(), stale=False)
        if not isinstance(meta, Entry) or meta.value is None:
            return MISSING
        # A score is a double. Two prices with the same score still differ in their text.
        try:
            sides = dict(meta.value)
            counts = [min(int(number), levels) for number in sides.pop("_sides").split(":")]
            if [len(bids), len(asks)] != counts:
                return MISSING
            tag = _tag(meta_key, meta.version)
            found = _levels(bids, tag, descending=True), _levels(asks, tag, descending=False)
        except (ArithmeticError, KeyError, ValueError):
            return MISSING
        return BookSides(meta._replace(value=sides), *found)

    async def drop_all(self, patterns: Sequence[str]) -> int:
        """Remove every key that begins with one of these, by SCAN, and return how many there were."""
        starts, dropped = tuple(patterns), 0
        for link in await self._route.everywhere():
            cursor = "0"
            while True:
                answer = await link.call(pack("SCAN", cursor, "MATCH", f"{self._config.prefix}*", "COUNT", 500))
                if isinstance(answer, Refusal):
                    raise self._refused(answer, link)
                cursor, keys = answer
                if found := [key for key in keys if key.startswith(starts)]:
                    # Encoded as they came: another program's key may not be UTF-8, and the wire decodes such bytes as
                    # surrogates.
                    payload = b"".join([pack("UNLINK", key.encode(errors="surrogateescape")) for key in found])
                    answers = await link.call(payload, len(found))
                    answers = answers if len(found) > 1 else [answers]
                    dropped += sum(self._number(number, link) for number in answers)
                if cursor == "0":
                    break
        return dropped

    async def health_check(self) -> HealthStatus:
        """Report whether every server answers. It never raises."""
        started = time.monotonic()
        latency: float | None = None
        try:
            versions = []
            for link in await self._route.everywhere():
                answer = await link.call(pack("INFO", "server"))
                if isinstance(answer, Refusal):
                    raise self._refused(answer, link)
                lines = dict(line.split(":", 1) for line in str(answer).splitlines() if ":" in line)
                versions.append(lines.get("redis_version", "of unknown version"))
            latency = time.monotonic() - started
            detail = f"Redis {', '.join(versions)}"
        except CacheError as error:
            detail = str(error)
        return HealthStatus(
            component="cache",
            healthy=latency is not None,
            detail=detail,
            latency_seconds=latency,
            checked_at=dt.datetime.now(dt.UTC),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._route.close()

    async def link(self, key: str) -> Link:
        """Return the link to the server that has a key, for your own commands and clocks.

        Raises:
            CacheUnavailable: In a cluster, no server has the key.
        """
        return await self._route.find(key)

    async def _set(self, write: Write) -> bool:
        def command(link: Link) -> bytes:
            micros = math.floor((link.clock.low + read_at) * 1e6)
            at = micros // 1000
            expires = at + write.ttl_ms
            version = write.version
            if version is None:
                version = "" if write.tombstone else version_text(micros)
            words: list[str | bytes | int] = [
                *("EVALSHA", SET_SHA, 1, write.key, version, expires + write.stale_ms, expires, at)
            ]
            if write.tombstone:
                words += (_TOMBSTONE, "1")
            elif write.value is None:
                words += (_NONE, "1")
            else:
                for name, text in write.value.items():
                    words += (name, text)
            return pack(*words)

        read_at = now() if write.read_at is None else write.read_at
        return await self._write(write.key, command)

    async def _write(self, key: str, command: Callable[[Link], bytes]) -> bool:
        """Run a writing script, and sample the server's clock from its answer."""
        sent_at = time.monotonic()
        link, answer = await self._ask(key, command, by_clock=True)
        if isinstance(answer, Refusal):
            raise self._refused(answer, link)
        taken, seconds, microseconds = answer
        link.clock.sample(int(seconds) + int(microseconds) / 1e6, sent_at, time.monotonic())
        return bool(taken)

    async def _ask(self, key: str, command: Callable[[Link], bytes], *, by_clock: bool = False) -> tuple[Link, Any]:
        """Send a command to the server that has the key now, and return its link and answer.

        Args:
            key: Decides which server is asked.
            command: Makes the command for a server.
            by_clock: Whether the command needs that server's clock, which is known once the connection stands.
        """
        link, asking = await self._route.find(key), False
        for _ in range(_MOST_ATTEMPTS):
            if by_clock and not link.connected:
                await link.call(_PING)
                if not link.connected:
                    raise CacheUnavailable("the connection to Redis was lost at once")
            payload = command(link)
            answer = (await link.call(_ASKING + payload, 2))[1] if asking else await link.call(payload)
            if not isinstance(answer, Refusal):
                break
            if str(answer).startswith("NOSCRIPT"):
                # The server has forgotten its scripts, as after SCRIPT FLUSH.
                await link.call(b"".join(_LOAD), len(_LOAD))
                continue
            elsewhere = self._route.follow(link, answer)
            if elsewhere is None:
                break
            link, asking = elsewhere
        return link, answer

    def _entry(self, key: str, answer: Any, link: Link, time_now: float, *, stale: bool) -> Entry | Missing:
        if not answer:
            return MISSING
        if isinstance(answer, Refusal):
            if "WRONGTYPE" in str(answer):
                return MISSING
            raise self._refused(answer, link)
        try:
            own_key, version = answer.pop("_key"), answer.pop("_ver")
            high = link.clock.high
            read_at = int(answer.pop("_at")) / 1000 - high
            expires_at = int(answer.pop("_exp")) / 1000 - high
        except (KeyError, ValueError, OverflowError):
            return MISSING  # another program's hash, or one that was edited by hand
        if own_key != key or _TOMBSTONE in answer or (expires_at <= time_now and not stale):
            return MISSING
        if read_at > time_now + _CLOCK_TOLERANCE_SECONDS:
            return MISSING  # edited, or of a server whose clock was ahead: its age is unknown
        return Entry(None if _NONE in answer else answer, version, read_at, expires_at)

    def _number(self, answer: Any, link: Link) -> int:
        if isinstance(answer, Refusal):
            raise self._refused(answer, link)
        return int(answer)

    def _refused(self, refusal: Refusal, link: Link) -> CacheError:
        # Many tasks may get the same refusal at the same time. That counts as one failure.
        window = (id(link), int(time.monotonic() / self._config.socket_timeout_seconds))
        return CacheUnavailable(f"Redis refused: {refusal}", incident=window)

    def _pushed(self, message: list[Any]) -> None:
        if self._near is not None and message[0] == "invalidate":
            self._near.invalidated(message[1])

    def _lost(self) -> None:
        if self._near is not None:
            self._near.clear()


async def _together(calls: Sequence[Any]) -> list[Any]:
    """Run all calls at once. Raise the first error after all have ended."""
    if len(calls) == 1:
        return [await calls[0]]
    found = await asyncio.gather(*calls, return_exceptions=True)
    for item in found:
        if isinstance(item, BaseException):
            raise item
    return found


def _always(payload: bytes) -> Callable[[Link], bytes]:
    """Return a function that makes the same command for every server."""
    return lambda _: payload


def _tag(meta_key: str, version: str) -> str:
    """Return the tag of one write of a book. Sides that were copied, or are of two writes, have different tags."""
    return f"{zlib.crc32(f'{meta_key} {version}'.encode(errors='surrogateescape')):08x}"


def _levels(members: Sequence[str], tag: str, *, descending: bool) -> tuple[tuple[str, str], ...]:
    found = []
    for member in members:
        price, size, own_tag = member.split(":")
        if own_tag != tag:
            raise ValueError(member)
        found.append((price, size))
    return tuple(sorted(found, key=lambda level: Decimal(level[0]), reverse=descending))
