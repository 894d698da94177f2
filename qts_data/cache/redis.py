"""The port on Redis 6.2 or newer: hashes that are replaced, fenced and given their end by one atomic script."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import math
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from qts_data.cache.keys import Keys
from qts_data.cache.near import NEAR_TYPES
from qts_data.cache.port import MISSING, BookSides, Cache, Entry, Missing, now, version_text
from qts_data.cache.routing import ClusterRoute, LinkMaker, SingleRoute
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


# Names of our own begin with an underscore: _ver fences, _at is when the value was read and _exp when it may be
# served no longer, both in milliseconds of the server's clock. Effects are replicated, not the script, so TIME is
# allowed before a write. A key of another type is somebody's mistake, and is replaced.
_SET: Final = """\
local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)
local version = ARGV[1]
if version == '' then version = string.format('%019.0f', time[1] * 1000000 + time[2]) end
local there = redis.pcall('HGET', KEYS[1], '_ver')
if type(there) == 'string' and there > version then return {0, time[1], time[2]} end
redis.call('DEL', KEYS[1])
if tonumber(ARGV[2]) <= ms then return {0, time[1], time[2]} end
redis.call('HSET', KEYS[1], '_ver', version, '_exp', ARGV[3], '_at', ARGV[4])
for i = 5, #ARGV, 1000 do
  redis.call('HSET', KEYS[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
redis.call('PEXPIREAT', KEYS[1], ARGV[2])
return {1, time[1], time[2]}
"""

_SET_BOOK: Final = """\
local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)
local there = redis.pcall('HGET', KEYS[3], '_ver')
if type(there) == 'string' and there > ARGV[1] then return {0, time[1], time[2]} end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
if tonumber(ARGV[2]) <= ms then return {0, time[1], time[2]} end
local at = 6
for side = 1, 2 do
  local last = at + 2 * tonumber(ARGV[3 + side]) - 1
  for i = at, last, 1000 do
    redis.call('ZADD', KEYS[side], unpack(ARGV, i, math.min(i + 999, last)))
  end
  at = last + 1
  redis.call('PEXPIREAT', KEYS[side], ARGV[2])
end
redis.call('HSET', KEYS[3], '_ver', ARGV[1], '_exp', ARGV[2], '_at', ARGV[3])
if at <= #ARGV then redis.call('HSET', KEYS[3], unpack(ARGV, at)) end
redis.call('PEXPIREAT', KEYS[3], ARGV[2])
return {1, time[1], time[2]}
"""

# One script, because between two commands another process may replace the book: bids of one, asks of another.
_GET_BOOK: Final = """\
local meta = redis.call('HGETALL', KEYS[3])
if #meta == 0 then return {} end
local last = tonumber(ARGV[1]) - 1
return {meta, redis.call('ZREVRANGE', KEYS[1], 0, last), redis.call('ZRANGE', KEYS[2], 0, last)}
"""

_SCRIPTS: Final = (_SET, _SET_BOOK, _GET_BOOK)
_LOAD: Final = [pack("SCRIPT", "LOAD", script) for script in _SCRIPTS]
_SET_SHA, _SET_BOOK_SHA, _GET_BOOK_SHA = (hashlib.sha1(script.encode()).hexdigest() for script in _SCRIPTS)  # noqa: S324
_PING: Final = pack("PING")
_ASKING: Final = pack("ASKING")
_MOST_ATTEMPTS: Final = 6
_NONE: Final = "_none"
_TOMBSTONE: Final = "_gone"
_OURS: Final = {_NONE, _TOMBSTONE, "_ver", "_exp", "_at"}


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
        return self._entry(answer, link, now(), stale=stale)

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
        return [self._entry(answer, link, time_now, stale=stale) for answer in answers]

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
                *("EVALSHA", _SET_BOOK_SHA, 3, write.bid_key, write.ask_key, write.meta_key),
                *(write.version, at + write.ttl_ms, at, len(write.bids), len(write.asks)),
            ]
            for price, size in (*write.bids, *write.asks):
                words += (price, f"{price}:{size}")
            for name, text in write.fields.items():
                words += (name, text)
            return pack(*words)

        read_at = now()
        return await self._write(write.meta_key, command)

    async def get_book(self, bid_key: str, ask_key: str, meta_key: str, *, levels: int) -> BookSides | Missing:
        """The best levels of both sides, of one and the same write."""
        payload = pack("EVALSHA", _GET_BOOK_SHA, 3, bid_key, ask_key, meta_key, levels)
        link, answer = await self._ask(meta_key, _always(payload))
        if isinstance(answer, Refusal):
            if "WRONGTYPE" in str(answer):
                return MISSING
            raise self._refused(answer, link)
        if not answer:
            return MISSING
        flat, bids, asks = answer
        meta = self._entry(dict(zip(flat[::2], flat[1::2], strict=True)), link, now(), stale=False)
        if not isinstance(meta, Entry):
            return MISSING
        # A score is a double: where it cannot tell two prices apart, the text can.
        try:
            return BookSides(meta, _levels(bids, descending=True), _levels(asks, descending=False))
        except ArithmeticError:
            return MISSING

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
            server = link.clock.low + read_at
            at = math.floor(server * 1000)
            expires = at + write.ttl_ms
            version = write.version
            if version is None:
                version = "" if write.tombstone else version_text(math.floor(server * 1e6))
            words: list[str | bytes | int] = [
                *("EVALSHA", _SET_SHA, 1, write.key, version, expires + write.stale_ms, expires, at)
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

    def _entry(self, answer: Any, link: Link, time_now: float, *, stale: bool) -> Entry | Missing:
        if not answer:
            return MISSING
        if isinstance(answer, Refusal):
            if "WRONGTYPE" in str(answer):
                return MISSING
            raise self._refused(answer, link)
        try:
            version = answer.pop("_ver")
            high = link.clock.high
            read_at = int(answer.pop("_at")) / 1000 - high
            expires_at = int(answer.pop("_exp")) / 1000 - high
        except (KeyError, ValueError):
            return MISSING  # somebody else's hash
        if _TOMBSTONE in answer or (expires_at <= time_now and not stale):
            return MISSING
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


def _levels(members: Sequence[str], *, descending: bool) -> tuple[tuple[str, str], ...]:
    found = [(price, size) for price, _, size in (member.partition(":") for member in members)]
    return tuple(sorted(found, key=lambda level: Decimal(level[0]), reverse=descending))
