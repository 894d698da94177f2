"""Probe of a server without logging in: does it answer, and does it accept connections?

`PGconn.ping` does the same, but holds the interpreter's lock while it waits, which stops every other thread. Python's
sockets let other threads run.

Source of the messages: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from psycopg import pq

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import URL

__all__ = ["Answer", "probe"]

_PROTOCOL: Final = 3 << 16
_LONGEST_ERROR: Final = 30_000
_SOCKET_DIRECTORIES: Final = ("/var/run/postgresql", "/tmp")  # noqa: S108 - where libpq looks, too


class Answer(NamedTuple):
    """A server's answer to the beginning of a login.

    Attributes:
        sqlstate: SQLSTATE of its refusal; empty if the server asks the client to continue the login.
        words: Message of its refusal.
    """

    sqlstate: str = ""
    words: str = ""


def probe(url: URL, timeout_seconds: float = 2.0) -> Answer | None:
    """Begin a login and read the first answer.

    Args:
        url: The database. With several hosts, the first one that answers counts.
        timeout_seconds: Longest wait, for all hosts together.

    Returns:
        The answer; None if no PostgreSQL server gave one.
    """
    until = time.monotonic() + timeout_seconds
    for host, port in _places(url):
        try:
            with _connected(host, port, until) as made:
                made.sendall(_startup(url))
                answer = _read_answer(made, until)
        except (OSError, ValueError):
            continue
        if answer is not None:
            return answer
    return None


def _setting(url: URL, name: str, value: object) -> str:
    given = url.query.get(name)
    if given is None:
        given = "" if value is None else str(value)
    if not given:
        defaults = {one.keyword.decode(): one.val for one in pq.Conninfo.get_defaults()}
        return (defaults.get(name) or b"").decode()
    return given if isinstance(given, str) else ",".join(given)


def _places(url: URL) -> Iterator[tuple[str, int]]:
    given = _setting(url, "hostaddr", None) or _setting(url, "host", url.host)
    hosts = given.split(",") if given else [*_SOCKET_DIRECTORIES, "localhost"]
    # SQLAlchemy takes host=name:port, too.
    ports = (_setting(url, "port", url.port) or "5432").split(",")
    for place, host in enumerate(hosts):
        name, _, own = host.partition(":") if host.count(":") == 1 else (host, "", "")
        port = own or (ports[place] if len(ports) == len(hosts) else ports[0]) or "5432"
        if port.isdecimal():
            yield name or "localhost", int(port)


def _connected(host: str, port: int, until: float) -> socket.socket:
    if not host.startswith(("/", "@")):
        return socket.create_connection((host, port), timeout=_left(until))
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(_left(until))
        path = f"{host}/.s.PGSQL.{port}"
        made.connect("\0" + path[1:] if host.startswith("@") else path)
    except BaseException:
        made.close()
        raise
    return made


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _startup(url: URL) -> bytes:
    user = url.username or "postgres"
    words = ("user", user, "database", url.database or user)
    body = b"".join(word.encode() + b"\0" for word in words) + b"\0"
    return struct.pack("!ii", 8 + len(body), _PROTOCOL) + body


def _read_answer(made: socket.socket, until: float) -> Answer | None:
    kind = _read(made, 1, until)
    if kind in (b"R", b"v"):
        return Answer()
    if kind != b"E":
        return None
    (length,) = struct.unpack("!i", _read(made, 4, until))
    if not 4 <= length <= _LONGEST_ERROR:
        return None
    fields = _read(made, length - 4, until).split(b"\0")
    said = {field[:1]: field[1:].decode(errors="replace") for field in fields}
    return Answer(said.get(b"C", ""), said.get(b"M", "")) if b"C" in said else None


def _read(made: socket.socket, count: int, until: float) -> bytes:
    found = b""
    while len(found) < count:
        made.settimeout(_left(until))
        piece = made.recv(count - len(found))
        if not piece:
            raise ConnectionResetError
        found += piece
    return found
