"""One connection to one Redis server, shared by many tasks. Commands of one turn of the loop are sent together."""

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
"""An error that the server gave as its answer. It stands in the place of the answer."""

_NOT_YET: Final = object()


def pack(*words: str | bytes | int) -> bytes:
    """Encode one command as RESP."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # it declares a tuple of one
    return packed


class Wire(asyncio.Protocol):
    """Sends commands in the order of the calls, and gives each answer to its call.

    One deadline stands for all: when the oldest command is not answered in time, the connection is dropped. Otherwise a
    late answer would be taken for that of the next command.

    Args:
        timeout_seconds: Longest wait for an answer.
        on_push: Called with each push message, in its place among the answers.
        on_lost: Called once when the connection is lost.

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
        # surrogateescape: bytes that another program wrote must not break the stream of answers.
        self._reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape", notEnoughData=_NOT_YET)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        # Futures, their numbers of answers and their deadlines. Commands that are sent together share one deadline
        # list.
        self._waiting: deque[tuple[asyncio.Future[Any], int, list[float]]] = deque()
        self._next: list[float] = [0.0]
        self._partial: list[Any] = []
        self._watch: asyncio.TimerHandle | None = None
        self._overdue: object = None
        self._ended: CacheError | None = None

    @property
    def alive(self) -> bool:
        """Whether commands can be sent."""
        return self._ended is None

    def call(self, payload: bytes, answers: int = 1) -> asyncio.Future[Any]:
        """Send packed commands. The future gets the answer, or the list of answers if there are several.

        A `Refusal` is an answer like any other. The future fails with `CacheTimeout` or `CacheUnavailable`.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._ended is not None:
            future.set_exception(self._same(self._ended))
            return future
        # On an idle connection a command is sent at once, because waiting for others costs a turn of the loop. Commands
        # that follow before its answer are sent together.
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
        """Set the longest wait for answers from now on, because a handshake may take longer than a read."""
        self._timeout = timeout_seconds
        if self._watch is not None:
            # The timer was set for the longer time, and would fire too late.
            self._watch.cancel()
            self._watch = None
            self._look()

    def drop(self, reason: CacheError) -> None:
        """End the connection now. All waiting calls get the reason."""
        if self._ended is not None:
            return
        self._ended = reason
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._out.clear()
        waiting, self._waiting = self._waiting, deque()
        if self._loop.is_closed():
            # No task is left that waits, and a closed loop accepts no calls.
            _close_socket(self._transport)
        else:
            if self._transport is not None:
                self._transport.abort()
            for future, _, _ in waiting:
                if not future.done():
                    future.set_exception(self._same(reason))
        self._on_lost(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of the new connection."""
        # Not checked by isinstance: uvloop's transports are no asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Give the received answers to their calls."""
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not _NOT_YET:
                if type(answer) is hiredis.PushNotification:
                    self._on_push(answer)
                    continue
                if not waiting:
                    self.drop(CacheUnavailable("Redis sent an answer without a question", incident=object()))
                    return
                future, answers, _ = waiting[0]
                if answers > 1:
                    self._partial.append(answer)
                    if len(self._partial) < answers:
                        continue
                    answer, self._partial = self._partial, []
                waiting.popleft()
                # The answer to a cancelled call is in the stream, too, and has to be counted.
                if not future.done():
                    future.set_result(answer)
        except (hiredis.ProtocolError, RecursionError) as error:
            self.drop(CacheUnavailable(f"Redis sent data that is not RESP: {error}", incident=error))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the waiting calls."""
        self.drop(CacheUnavailable(f"the connection to Redis was lost: {exc or 'closed by the server'}", incident=self))

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            self._transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
            self._out.clear()
            # The timeout of Redis begins now, however late the loop is.
            self._next[0] = self._loop.time() + self._timeout
            self._next = [0.0]

    def _look(self) -> None:
        """Drop the connection if the oldest command is overdue. One timer serves any number of commands."""
        self._watch = None
        if not self._waiting:
            return
        oldest, time = self._waiting[0], self._loop.time()
        if oldest[2][0] > time:
            self._watch = self._loop.call_at(oldest[2][0], self._look)
        elif oldest is not self._overdue:
            # The loop may be late, not Redis. So received data is read first.
            self._overdue = oldest
            self._watch = self._loop.call_at(time, self._look)
        else:
            message = f"Redis did not answer within {self._timeout * 1000:g} ms"
            self.drop(CacheTimeout(message, incident=object()))

    @staticmethod
    def _same(reason: CacheError) -> CacheError:
        """Return a new error for each caller, because all of them would add to the traceback of a shared one."""
        return type(reason)(str(reason), incident=reason.incident)


def _close_socket(transport: Any) -> None:
    """Close the socket of a transport whose event loop is closed, for which asyncio has no public way."""
    if transport is None:
        return
    with contextlib.suppress(RuntimeError):
        transport.abort()
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        sock.close()
        transport._sock = None  # noqa: SLF001 - otherwise its finalizer warns of a socket that is already closed
