"""One connection to one Redis server that many tasks share: what they ask in one turn of the loop travels together."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis

from qts_data.errors import CacheError, CacheTimeout, CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Refusal", "Wire", "pack"]

Refusal = hiredis.ReplyError
"""An error that the server gave as its answer; it stands where the answer would."""

_NOT_YET: Final = object()


def pack(*words: str | bytes | int) -> bytes:
    """One command as RESP."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # it declares a tuple of one
    return packed


class Wire(asyncio.Protocol):
    """Sends commands in the order of their coming and gives each answer to whoever asked.

    One deadline stands for all: when the oldest question is not answered in time, the connection is dropped, for
    an answer that comes too late would be taken for that of the next question.

    Args:
        timeout_seconds: Longest wait for an answer.
        on_push: Called with each message that nobody asked for, in its place among the answers.
        on_lost: Called once when the connection is gone.

    Attributes:
        loop: The event loop that it belongs to.
    """

    def __init__(
        self, timeout_seconds: float, on_push: Callable[[list[Any]], None], on_lost: Callable[[Wire], None]
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._loop = self.loop
        self._timeout = timeout_seconds
        self._on_push = on_push
        self._on_lost = on_lost
        # surrogateescape: bytes that somebody else wrote must not break the stream of answers.
        self._reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape", notEnoughData=_NOT_YET)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        # Who waits for how many answers, and until when; questions that are sent together share that list of one.
        self._waiting: deque[tuple[asyncio.Future[Any], int, list[float]]] = deque()
        self._next: list[float] = [0.0]
        self._partial: list[Any] = []
        self._watch: asyncio.TimerHandle | None = None
        self._overdue: object = None
        self._ended: CacheError | None = None

    @property
    def alive(self) -> bool:
        """Whether questions can be asked."""
        return self._ended is None

    def call(self, payload: bytes, answers: int = 1) -> asyncio.Future[Any]:
        """Send packed commands; the future has the answer, or the list of them where they are several.

        A `Refusal` is an answer like any other. The future fails with `CacheTimeout` or `CacheUnavailable`.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._ended is not None:
            future.set_exception(self._same(self._ended))
            return future
        # On an idle connection a question goes out at once: waiting for company costs a turn of the loop. Whatever is
        # asked before its answer has come travels together.
        if not self._waiting and self._transport is not None:
            self._transport.write(payload)
            self._waiting.append((future, answers, [self._loop.time() + self._timeout]))
        else:
            self._out.append(payload)
            self._waiting.append((future, answers, self._next))
            if len(self._out) == 1:
                self._next[0] = self._loop.time() + self._timeout
                self._loop.call_soon(self._flush)
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._look)
        return future

    def be_patient_for(self, timeout_seconds: float) -> None:
        """The longest wait for answers from now on: a handshake may take longer than a read."""
        self._timeout = timeout_seconds
        if self._watch is not None:
            # It was set for the longer time, and would look too late.
            self._watch.cancel()
            self._watch = None
            self._look()

    def drop(self, reason: CacheError) -> None:
        """End the connection now; everybody who waits gets the reason."""
        if self._ended is not None:
            return
        self._ended = reason
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._out.clear()
        waiting, self._waiting = self._waiting, deque()
        if self._loop.is_closed():
            # No task is left that waits, and the loop takes no call any more.
            _close_socket(self._transport)
        else:
            if self._transport is not None:
                self._transport.abort()
            for future, _, _ in waiting:
                if not future.done():
                    future.set_exception(self._same(reason))
        self._on_lost(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        # Not checked by isinstance: uvloop's transports are no asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand out what has come."""
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not _NOT_YET:
                if type(answer) is hiredis.PushNotification:
                    self._on_push(answer)
                    continue
                if not waiting:
                    self.drop(CacheUnavailable("Redis answered what nobody had asked", incident=object()))
                    return
                future, answers, _ = waiting[0]
                if answers > 1:
                    self._partial.append(answer)
                    if len(self._partial) < answers:
                        continue
                    answer, self._partial = self._partial, []
                waiting.popleft()
                # Who was cancelled has still to be counted: the answer is in the stream.
                if not future.done():
                    future.set_result(answer)
        except (hiredis.ProtocolError, RecursionError) as error:
            self.drop(CacheUnavailable(f"Redis sent what is no RESP: {error}", incident=error))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.drop(CacheUnavailable(f"the connection to Redis was lost: {exc or 'closed by the server'}", incident=self))

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            self._transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
            self._out.clear()
            # Redis has from now on, however long the loop took to come here.
            self._next[0] = self._loop.time() + self._timeout
            self._next = [0.0]

    def _look(self) -> None:
        """Drop the connection if the oldest question is overdue; one timer serves any number of them."""
        self._watch = None
        if not self._waiting:
            return
        oldest, time = self._waiting[0], self._loop.time()
        if oldest[2][0] > time:
            self._watch = self._loop.call_at(oldest[2][0], self._look)
        elif oldest is not self._overdue:
            # It may be the loop that is late, and not Redis: what has come meanwhile is read first.
            self._overdue = oldest
            self._watch = self._loop.call_at(time, self._look)
        else:
            message = f"Redis did not answer within {self._timeout * 1000:g} ms"
            self.drop(CacheTimeout(message, incident=object()))

    @staticmethod
    def _same(reason: CacheError) -> CacheError:
        """An error of its own for each caller: a traceback must not grow by those of others."""
        return type(reason)(str(reason), incident=reason.incident)


def _close_socket(transport: Any) -> None:
    """Close the socket of a transport whose event loop is closed; asyncio has no public way to do it."""
    if transport is None:
        return
    with contextlib.suppress(RuntimeError):
        transport.abort()
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        sock.close()
        transport._sock = None  # noqa: SLF001 - or its finalizer warns of a socket that is closed
