"""The port on Redis 6.2 or newer: hashes that are replaced, fenced and given their end by one atomic script."""

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
"""How far an entry's time may be ahead of now: our bounds of the server's clock are no better."""


class RedisCache(Cache):
    """Values in Redis: one server, the master that Sentinels name, or a cluster.

    One connection to each server carries the commands of all tasks; it belongs to the event loop that first uses it.

    Args:
        config: Where Redis is and how long it may take.
        near: Told about every change of its keys, and about every lost connection.

    Raises:
        ConfigurationError: The URL cannot be read.
    """

    def __init__(self, config: CacheConfig, *, near: NearCache | None = None) -> None:
        self._config = config
        self._near = near
        preamble = list(_LOAD)
        if near is not None:
            starts = Keys(config.prefix).starts(NEAR_TYPES)
            near.told_of = tuple(starts)
            prefixes = [word for start in starts for word in ("PREFIX", start)]
            preamble.append(pack("CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP", *prefixes))
        maker = LinkMaker(config, preamble=preamble, on_push=self._pushed, on_lost=self._lost)
        self._route = ClusterRoute(maker) if config.cluster else SingleRoute(maker)
        # The shortcut of the one server saves a read a third of its own time.
        self._only: Link | None = self._route.link if isinstance(self._route, SingleRoute) else None

    async def lookup(self, key: str, *, stale: bool = False) -> Entry | Missing:
        """The value with its version and times.

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
        """The same for many keys, in their order, in one round trip to each server.

        Raises:
            CacheTimeout: No answer in time.
            CacheUnavailable: No connection, or the server refuses.
        """
        link = self._only
        if link is None or len(keys) < 2:
            # Each link gathers what is asked of it in one turn of the loop.
            return await _together([self.lookup(key, stale=stale) for key in keys])
        answers = await link.call(b"".join([pack("HGETALL", key) for key in keys]), len(keys))
        time_now = now()
        return [
            self._entry(key, answer, link, time_now, stale=stale) for key, answer in zip(keys, answers, strict=True)
        ]

    async def set_many(self, writes: Sequence[Write]) -> list[bool]:
        """Write each value; says of each whether it was taken.

        Raises:
            CacheTimeout: No answer in time; what was written is not known.
            CacheUnavailable: No connection, or the server refuses.
        """
        return await _together([self._set(write) for write in writes])

    async def delete(self, *keys: str) -> int:
        """Remove values and their fences; returns how many keys there were."""
        answers = await _together([self._ask(key, _always(pack("UNLINK", key))) for key in keys])
        return sum(self._number(answer, link) for link, answer in answers)

    async def set_book(self, write: BookWrite) -> bool:
        """Replace both sides of an order book at once; False if a newer one is there."""

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
        """The best levels of both sides, of one and the same write."""
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
        # A score is a double: where it cannot tell two prices apart, the text can.
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
        """Remove every key that begins with one of these, by SCAN; returns how many there were."""
        starts, dropped = tuple(patterns), 0
        for link in await self._route.everywhere():
            cursor = "0"
            while True:
                answer = await link.call(pack("SCAN", cursor, "MATCH", f"{self._config.prefix}*", "COUNT", 500))
                if isinstance(answer, Refusal):
                    raise self._refused(answer, link)
                cursor, keys = answer
                if found := [key for key in keys if key.startswith(starts)]:
                    # As bytes: somebody else's key may be no text, and came as the wire reads such.
                    payload = b"".join([pack("UNLINK", key.encode(errors="surrogateescape")) for key in found])
                    answers = await link.call(payload, len(found))
                    answers = answers if len(found) > 1 else [answers]
                    dropped += sum(self._number(number, link) for number in answers)
                if cursor == "0":
                    break
        return dropped

    async def health_check(self) -> HealthStatus:
        """Whether every server answers; never raises."""
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
        """End every connection."""
        await self._route.close()

    async def link(self, key: str) -> Link:
        """The connection to the server that has a key, for commands and clocks of your own.

        Raises:
            CacheUnavailable: In a cluster: no server has it.
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
        """Run a writing script, and learn the server's time from its answer."""
        sent_at = time.monotonic()
        link, answer = await self._ask(key, command, by_clock=True)
        if isinstance(answer, Refusal):
            raise self._refused(answer, link)
        taken, seconds, microseconds = answer
        link.clock.sample(int(seconds) + int(microseconds) / 1e6, sent_at, time.monotonic())
        return bool(taken)

    async def _ask(self, key: str, command: Callable[[Link], bytes], *, by_clock: bool = False) -> tuple[Link, Any]:
        """The answer to one command and who gave it, wherever the key is by now.

        Args:
            key: Says who is asked.
            command: Makes the command for a server.
            by_clock: Whether it needs that server's clock, which is known once the connection stands.
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
                # The server was told to forget its scripts while it ran.
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
            return MISSING  # edited, or of a server whose clock was ahead: its age is not known
        return Entry(None if _NONE in answer else answer, version, read_at, expires_at)

    def _number(self, answer: Any, link: Link) -> int:
        if isinstance(answer, Refusal):
            raise self._refused(answer, link)
        return int(answer)

    def _refused(self, refusal: Refusal, link: Link) -> CacheError:
        # Many tasks meet the same refusal at the same time: that is one failure.
        window = (id(link), int(time.monotonic() / self._config.socket_timeout_seconds))
        return CacheUnavailable(f"Redis refused: {refusal}", incident=window)

    def _pushed(self, message: list[Any]) -> None:
        if self._near is not None and message[0] == "invalidate":
            self._near.invalidated(message[1])

    def _lost(self) -> None:
        if self._near is not None:
            self._near.clear()


async def _together(calls: Sequence[Any]) -> list[Any]:
    """All at once; the first error, after all have ended."""
    if len(calls) == 1:
        return [await calls[0]]
    found = await asyncio.gather(*calls, return_exceptions=True)
    for item in found:
        if isinstance(item, BaseException):
            raise item
    return found


def _always(payload: bytes) -> Callable[[Link], bytes]:
    """The same command, whoever is asked."""
    return lambda _: payload


def _tag(meta_key: str, version: str) -> str:
    """Mark the levels of one write of one book: sides that were copied, or are of two writes, do not go together."""
    return f"{zlib.crc32(f'{meta_key} {version}'.encode(errors='surrogateescape')):08x}"


def _levels(members: Sequence[str], tag: str, *, descending: bool) -> tuple[tuple[str, str], ...]:
    found = []
    for member in members:
        price, size, own_tag = member.split(":")
        if own_tag != tag:
            raise ValueError(member)
        found.append((price, size))
    return tuple(sorted(found, key=lambda level: Decimal(level[0]), reverse=descending))
