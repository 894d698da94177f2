"""A link to one server: it connects when needed, and again after the connection was lost."""

from __future__ import annotations

import asyncio
import time
from asyncio import get_running_loop
from typing import TYPE_CHECKING, Any, Final

from qts_data.cache.clock import ServerClock
from qts_data.cache.wire import Refusal, Wire, pack
from qts_data.errors import CacheClosed, CacheError, CacheTimeout, CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qts_data.cache.servers import Address, Login

__all__ = ["Link"]

_CLOCK_SECONDS: Final = 5.0
_TIME: Final = pack("TIME")


class Link:
    """One shared connection to one server at a time, in the event loop that uses it.

    In the next loop, after the first has ended, the next call makes a new connection. After `close` every call fails.

    Args:
        locate: Returns the server's address; called before each connection.
        login: Database, user, password and encryption.
        timeout_seconds: Longest wait for an answer, or for the connection.
        connect_timeout_seconds: Longest time for making the connection.
        preamble: Commands sent on each new connection, such as the scripts.
        on_push: Called with each push message of the server.
        on_lost: Called whenever the connection is lost.

    Attributes:
        clock: The server's clock.
    """

    def __init__(
        self,
        locate: Callable[[], Awaitable[Address]],
        login: Login,
        *,
        timeout_seconds: float,
        connect_timeout_seconds: float,
        preamble: Sequence[bytes],
        on_push: Callable[[list[Any]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._locate = locate
        self._login = login
        self._timeout = timeout_seconds
        self._connect_timeout = connect_timeout_seconds
        self._preamble = preamble
        self._on_push = on_push
        self._lost = on_lost
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[Wire] | None = None
        self._attempt: object = None
        self._closed = False
        self._background: set[asyncio.Future[Any]] = set()
        self.clock: ServerClock = ServerClock()

    @property
    def connected(self) -> bool:
        """Whether the link is connected."""
        return self._wire is not None

    def call(self, payload: bytes, answers: int = 1) -> Awaitable[Any]:
        """Send packed commands, and return the answer, or the list of answers. A `Refusal` is an answer.

        Raises:
            CacheTimeout: No answer in time. All waiting calls get this error, and the connection is dropped.
            CacheUnavailable: No connection, or it was lost.
            CacheClosed: The link was closed.
        """
        wire = self._wire
        if wire is None or wire.loop is not get_running_loop():
            return self._connect_and_call(payload, answers)
        if time.monotonic() - self.clock.sampled_at > _CLOCK_SECONDS:
            self._keep_time(wire)
        return wire.call(payload, answers)

    def drop(self, reason: CacheError) -> None:
        """Drop the connection. The next call makes another."""
        if self._wire is not None:
            self._wire.drop(reason)

    async def close(self) -> None:
        """End the connection, or the attempt to make it. Later calls fail with `CacheClosed`."""
        self._closed = True
        making, self._connecting = self._connecting, None
        if making is not None and making.get_loop() is get_running_loop():
            making.cancel()
            await asyncio.wait([making])
        self.drop(self._closed_error())
        # The loop closes the socket in its next turn, which may be its last.
        await asyncio.sleep(0)

    def _closed_error(self) -> CacheClosed:
        return CacheClosed("the cache was closed, and stays closed", incident=self)

    async def _connect_and_call(self, payload: bytes, answers: int) -> Any:
        loop = get_running_loop()
        if self._closed:
            raise self._closed_error()
        self._leave_other_loop(loop)
        deadline = loop.time() + self._timeout
        if self._connecting is None:
            self._attempt = object()
            self._connecting = loop.create_task(self._connect(self._attempt))
            self._connecting.add_done_callback(_mark_seen)
        # All callers share the connection. So neither a cancellation nor a timeout of one caller ends the attempt.
        making = self._connecting
        done, _ = await asyncio.wait([making], timeout=self._timeout)
        if not done:
            # A window of one timeout is one incident, however many tasks wait in it.
            window = (id(self), int(loop.time() / self._timeout))
            raise CacheTimeout(f"no connection to Redis within {self._timeout * 1000:g} ms", incident=window)
        if making.cancelled():
            raise self._closed_error()
        failure = making.exception()
        if isinstance(failure, CacheError):
            raise type(failure)(str(failure), incident=failure.incident) from failure
        if failure is not None:
            raise CacheUnavailable(f"no connection to Redis: {failure}", incident=failure) from failure
        try:
            async with asyncio.timeout_at(deadline):
                return await making.result().call(payload, answers)
        except TimeoutError as error:
            raise CacheTimeout(f"no answer of Redis within {self._timeout * 1000:g} ms", incident=making) from error

    def _leave_other_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drop the connection of another event loop, which has ended.

        Raises:
            CacheUnavailable: That loop still runs, in another thread.
        """
        wire, making = self._wire, self._connecting
        others = [wire.loop] if wire is not None else []
        others += [making.get_loop()] if making is not None else []
        for other in others:
            if other is not loop and other.is_running():
                raise CacheUnavailable("the connection to Redis belongs to an event loop of another thread")
        if wire is not None and wire.loop is not loop:
            wire.drop(CacheUnavailable("the event loop of the connection has ended"))
        if making is not None and making.get_loop() is not loop:
            self._connecting = None

    async def _connect(self, attempt: object) -> Wire:
        try:
            try:
                async with asyncio.timeout(self._connect_timeout):
                    return await self._handshake(await self._locate())
            except TimeoutError as error:
                message = f"no connection to Redis within {self._connect_timeout * 1000:g} ms"
                raise CacheTimeout(message, incident=error) from error
            except (OSError, UnicodeError) as error:
                raise CacheUnavailable(f"no connection to Redis: {error}", incident=error) from error
        finally:
            if self._attempt is attempt:
                self._connecting = None

    async def _handshake(self, address: Address) -> Wire:
        loop = get_running_loop()

        def make() -> Wire:
            return Wire(self._connect_timeout, self._on_push, self._forget)

        wire: Wire
        if address.path is not None:
            _, wire = await loop.create_unix_connection(make, address.path)
        else:
            tls = self._login.tls
            _, wire = await loop.create_connection(make, address.host, address.port, ssl=tls)
        try:
            user = self._login.username or "default"
            password = self._login.password
            auth = () if password is None else ("AUTH", user, password)
            commands = [pack("HELLO", "3", *auth, "SETNAME", "qts_data"), pack("ROLE")]
            if self._login.db:
                commands.append(pack("SELECT", self._login.db))
            commands += [*self._preamble, _TIME]
            sent_at = time.monotonic()
            answers = await wire.call(b"".join(commands), len(commands))
            self._check(address, commands, answers)
            self._sample(answers[-1], sent_at)
        except BaseException:
            wire.drop(CacheUnavailable("the handshake with Redis did not end"))
            raise
        if self._closed:
            wire.drop(self._closed_error())
            raise self._closed_error()
        if not wire.alive:
            raise CacheUnavailable(f"Redis at {address} closed the connection", incident=wire)
        wire.be_patient_for(self._timeout)
        self._wire = wire
        return wire

    def _check(self, address: Address, commands: list[bytes], answers: list[Any]) -> None:
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, Refusal):
                # Only the command's name: the command itself may hold the password.
                name = command.split(b"\r\n", 3)[2].decode()
                message = f"Redis at {address} refused {name}: {answer}; the cache needs Redis 6.2 or newer"
                raise CacheUnavailable(message, incident=answer)
        if answers[1][0] != "master":
            raise CacheUnavailable(f"Redis at {address} is a {answers[1][0]}, not a master", incident=answers)

    def _forget(self, wire: Wire) -> None:
        if wire is self._wire:
            self._wire = None
            self.clock = ServerClock()
            self._lost()

    def _keep_time(self, wire: Wire) -> None:
        """Ask for the server's time together with the next command."""
        # The clock counts as sampled at once, so that calls before the answer do not ask again.
        sent_at = self.clock.sampled_at = time.monotonic()
        answer = wire.call(_TIME)
        self._background.add(answer)
        answer.add_done_callback(lambda done: self._timed(done, sent_at))

    def _timed(self, done: asyncio.Future[Any], sent_at: float) -> None:
        self._background.discard(done)
        if not done.cancelled() and done.exception() is None and not isinstance(done.result(), Refusal):
            self._sample(done.result(), sent_at)

    def _sample(self, answer: Sequence[str | int], sent_at: float) -> None:
        self.clock.sample(int(answer[0]) + int(answer[1]) / 1e6, sent_at, time.monotonic())


def _mark_seen(task: asyncio.Task[Wire]) -> None:
    """Mark the task's error as seen, so that it causes no warning if no caller waits any more."""
    if not task.cancelled():
        task.exception()
