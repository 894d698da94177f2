"""Failing connections raise an error with the reason, and the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from qts_data.database.engine import parse_url
from qts_data.database.probe import probe
from qts_data.errors import DatabaseUnavailable
from qts_data.repositories import Database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.engine import URL

    from tests.fixtures.fix_proxy import Proxy


def refusal(sqlstate: str, words: str) -> bytes:
    fields = b"SFATAL\0C" + sqlstate.encode() + b"\0M" + words.encode() + b"\0\0"
    return b"E" + (4 + len(fields)).to_bytes(4, "big") + fields


class Listener:
    """A server that answers each login with some bytes. With None it closes the first connection, then stays silent."""

    def __init__(self, made: socket.socket, answer: bytes | None) -> None:
        self._made, self._answer, self.held = made, answer, list[socket.socket]()
        made.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                taken, _ = self._made.accept()
            except OSError:
                return
            if self._answer is None:
                if self.held:
                    self.held.append(taken)
                else:
                    self.held.append(taken)
                    taken.close()
                continue
            # libpq asks for encryption first.
            if taken.recv(4096)[4:8] == (80877103).to_bytes(4, "big"):
                taken.sendall(b"N")
                taken.recv(4096)
            taken.sendall(self._answer)
            taken.close()

    def close(self) -> None:
        self._made.close()
        for one in self.held:
            one.close()


@pytest.fixture
def listening(request: pytest.FixtureRequest) -> Callable[[bytes | None], URL]:
    def listen(answer: bytes | None) -> URL:
        made = socket.create_server(("127.0.0.1", 0))
        port = made.getsockname()[1]
        request.addfinalizer(Listener(made, answer).close)
        return parse_url(f"postgresql://u:p@127.0.0.1:{port}/d?sslmode=disable")

    return listen


async def test_a_silent_server_does_not_stop_the_event_loop(listening: Callable[[bytes | None], URL]) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    counting = asyncio.create_task(count_turns())
    async with Database(listening(None)) as book:
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), book.reader():
                pass
        # The probe waits for two seconds in its thread.
        assert turns > 5
        assert time.monotonic() - before < 1.9
    counting.cancel()


async def test_silent_server_is_reported_as_not_answering(listening: Callable[[bytes | None], URL]) -> None:
    async with Database(listening(None)) as book:
        with pytest.raises(DatabaseUnavailable, match="no PostgreSQL server answers"):
            async with book.reader():
                pass


@pytest.mark.parametrize("sqlstate", ["57P03", "53300"])
async def test_a_refusal_that_passes_is_unavailable(listening: Callable[[bytes | None], URL], sqlstate: str) -> None:
    async with Database(listening(refusal(sqlstate, "not now"))) as book:
        with pytest.raises(DatabaseUnavailable, match="takes no connection now: not now") as caught:
            async with book.reader():
                pass
    assert caught.value.sqlstate == sqlstate


async def test_server_that_ends_a_login_is_not_called_silent(proxy: Proxy) -> None:
    async with Database(proxy.url) as book:
        proxy.refuse_once(b"57P03")
        with pytest.raises(DatabaseUnavailable) as caught:
            async with book.reader():
                pass
    assert "no PostgreSQL server answers" not in str(caught.value)


def test_a_probe_hears_a_server_and_no_other_listener(database_url: URL, tmp_path: Path) -> None:
    assert probe(database_url) is not None
    assert probe(parse_url(f"postgresql://u@/d?host={tmp_path}")) is None
    for answer in (b"", b"E", b"E\0\0\0\3", b"E\x7f\xff\xff\xff", b"E\0\0\0\5\0", b"HTTP/1.1 400", b"S"):
        made = socket.socket(socket.AF_UNIX)
        path = tmp_path / ".s.PGSQL.5432"
        path.unlink(missing_ok=True)
        made.bind(str(path))
        listener = Listener(made, answer)
        assert probe(parse_url(f"postgresql://u@/d?host={tmp_path}"), 0.5) is None
        listener.close()
