"""TLS to the database and to Redis: it is used, and a server without a valid certificate gets no data."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
import struct
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import redis
import trustme

from qts_data.cache import CacheManager, RedisCache
from qts_data.contracts import CacheConfig
from qts_data.database.engine import DatabaseConfig
from qts_data.errors import CacheUnavailable, ConfigurationError
from qts_data.repositories import Database
from qts_data.writers import FillWriter
from tests.fixtures.cache_rows import Source, patient, position
from tests.fixtures.factories import FillFactory, TickFactory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sqlalchemy.engine import URL

    from tests.fixtures.fix_proxy import Proxy
    from tests.fixtures.redis_process import RedisProcess

    Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def opened(url: URL) -> Streams:
    """Connect to a server as libpq reads its URL."""
    host = str(url.query.get("host") or url.host or "127.0.0.1")
    port = int(str(url.query.get("port") or url.port or 5432))
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


def root_of(authority: trustme.CA, directory: Path) -> Path:
    path = directory / "root.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


class Front:
    """Speaks TLS before a server that does not.

    Attributes:
        port: Where it listens.
        spoken: Bytes that came encrypted.
    """

    def __init__(self, authority: trustme.CA, behind: Callable[[], Awaitable[Streams]], *, asked: bool) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(self._context)
        self._behind = behind
        self._asked = asked
        self._serving: list[asyncio.Task[None]] = []
        self.port = 0
        self.spoken = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Front]:
        # Redis speaks TLS from the first byte on.
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=None if self._asked else self._context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            async with server:
                yield self
        finally:
            for serving in self._serving:
                serving.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await self._behind()

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, counted: bool) -> None:
            while data := await source.read(65536):
                self.spoken += len(data) * counted
                target.write(data)
                await target.drain()
            target.close()

        with contextlib.suppress(ConnectionError, ssl.SSLError):
            if self._asked:
                # PostgreSQL's client asks for TLS first.
                assert await reader.readexactly(8) == struct.pack(">ii", 8, 80877103)
                writer.write(b"S")
                await writer.start_tls(self._context)
            await asyncio.gather(carry(reader, back, counted=True), carry(there, writer, counted=False))
        for made in (writer, back):
            made.close()


@pytest_asyncio.fixture
async def front(own_redis: RedisProcess, authority: trustme.CA) -> AsyncIterator[Front]:
    async with Front(
        authority, lambda: asyncio.open_connection("127.0.0.1", own_redis.port), asked=False
    ).open() as made:
        yield made


@pytest.mark.parametrize("by_url", [False, True])
async def test_redis_is_spoken_to_under_tls(
    front: Front, own_redis: RedisProcess, authority: trustme.CA, tmp_path: Path, *, by_url: bool
) -> None:
    where: dict[str, Any] = (
        {"url": f"rediss://localhost:{front.port}/3"} if by_url else {"host": "localhost", "port": front.port, "db": 3}
    )
    config = patient(tls=not by_url, tls_root_certificate=str(root_of(authority, tmp_path)), **where)
    source = Source()
    async with CacheManager(config, source.loaders) as manager:
        await manager.update_position_on_fill(FillFactory.build(symbol="005930"))
        assert await manager.get_position("005930") == position(1)
        assert (manager.get_stats().hits, manager.get_stats().errors) == (1, 0)
    assert front.spoken > 100
    with redis.Redis.from_url(f"redis://127.0.0.1:{own_redis.port}/3", legacy_responses=False) as client:
        assert client.exists("pos:{005930}")


@pytest.mark.parametrize(("host", "known"), [("127.0.0.1", True), ("localhost", False)])
async def test_redis_that_cannot_prove_its_name_gets_nothing(
    front: Front, authority: trustme.CA, tmp_path: Path, host: str, *, known: bool
) -> None:
    signer = authority if known else trustme.CA()
    config = patient(
        host=host,
        port=front.port,
        password="secret",
        tls=True,
        tls_root_certificate=str(root_of(signer, tmp_path)),
    )
    cache = RedisCache(config)
    with pytest.raises(CacheUnavailable, match="certificate verify failed"):
        await cache.get("k")
    await cache.close()
    assert front.spoken == 0
    # A caller sees a cache that does not answer.
    source = Source()
    source.rows["005930", "main"] = position(1)
    async with CacheManager(config, source.loaders) as manager:
        assert await manager.get_position("005930") == position(1)
        assert manager.get_stats().errors > 0


def test_a_certificate_that_is_no_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.pem"):
        RedisCache(CacheConfig(tls=True, tls_root_certificate="nowhere.pem"))


@pytest_asyncio.fixture
async def database_front(database_url: URL, authority: trustme.CA) -> AsyncIterator[Front]:
    async with Front(authority, lambda: opened(database_url), asked=True).open() as made:
        yield made


async def test_the_database_is_spoken_to_under_tls(
    database_front: Front, database_url: URL, authority: trustme.CA, tmp_path: Path
) -> None:
    url = database_url.set(host="localhost", port=database_front.port, query={})
    config = DatabaseConfig(tls_mode="verify-full", tls_root_certificate=root_of(authority, tmp_path))
    async with Database(url, config) as database:
        async with database.transaction() as uow:
            await uow.ledger.record_fill(FillFactory.build())
        async with FillWriter(database) as writer:
            for _ in range(3):
                await writer.record_fill(FillFactory.build())
        # Many long rows cross the ends of TLS's own records.
        fills = [FillFactory.build(strategy_tag="x" * (1 + number % 60)) for number in range(3_000)]
        ticks = TickFactory.build_batch(20_000)
        async with asyncio.timeout(300):  # only a stall takes so long
            async with database.transaction() as uow:
                assert len(await uow.ledger.record_fills(fills)) == 3_000
                await uow.ticks.ingest(ticks)
            async with database.reader() as reader:
                assert len([entry async for entry in reader.ledger.stream_entries()]) == 3_004
                start, end = (at(tick.time for tick in ticks) for at in (min, max))
                assert len(await reader.ticks.ticks(ticks[0].symbol, start, end + dt.timedelta(seconds=1))) == 20_000
    assert database_front.spoken > 1_000_000


@pytest.mark.parametrize(("host", "known"), [("127.0.0.1", True), ("localhost", False)])
async def test_database_that_cannot_prove_its_name_gets_nothing(
    database_front: Front, database_url: URL, authority: trustme.CA, tmp_path: Path, host: str, *, known: bool
) -> None:
    signer = authority if known else trustme.CA()
    config = DatabaseConfig(tls_mode="verify-full", tls_root_certificate=root_of(signer, tmp_path))
    async with Database(database_url.set(host=host, port=database_front.port, query={}), config) as database:
        with pytest.raises(ConfigurationError, match=r"no encrypted connection to .*certificate.*; check the TLS"):
            async with database.reader() as reader:
                await reader.ledger.list_entries()
    assert database_front.spoken == 0


async def test_server_without_tls_is_refused_where_tls_is_required(proxy: Proxy) -> None:
    """With `tls_mode="require"` no statement goes to a server without TLS."""
    url = proxy.url.set(query={})
    async with Database(url, DatabaseConfig(tls_mode="require")) as database:
        with pytest.raises(ConfigurationError, match="server does not support SSL, but SSL was required"):
            async with database.reader() as reader:
                await reader.ledger.list_entries()
