"""Engines: build SQLAlchemy engines from URLs, with timeouts, UTF-8 and UTC on every connection."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

# This import registers timescaledb+psycopg:// for URLs.
import qts_data.timescale  # noqa: F401
from qts_data.errors import ConfigurationError
from qts_data.timescale.endings import WatchedConnection

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn
    from sqlalchemy.engine import URL, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

__all__ = ["UTF8_ARGUMENTS", "DatabaseConfig", "TlsMode", "async_engine", "engine", "parse_url"]

UTF8_ARGUMENTS: Final = MappingProxyType({"client_encoding": "utf8"})
"""Settings that each connection of the package passes to libpq. COPY sends UTF-8, so everything else must, too."""
_SESSION: Final = MappingProxyType({"TimeZone": "UTC", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres"})
"""Settings in which the package reads the server's answers. The server reports each of them without a query."""

_DRIVER: Final = "timescaledb+psycopg"
_SCHEMES: Final = {
    "postgres",
    "postgresql",
    "postgresql+psycopg",
    "timescaledb",
    "timescaledb+psycopg",
}


TlsMode: TypeAlias = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
"""libpq's sslmode."""
_MOST_CONNECT_SECONDS: Final = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseConfig:
    """How an engine connects. Every duration is in seconds.

    Attributes:
        pool_min: Connections that are kept open once they were needed.
        pool_max: Most connections at a time.
        pool_timeout_seconds: Longest wait for a free connection; then `DatabaseUnavailable`.
        connect_timeout_seconds: Longest wait for a new connection, for each address of the host.
        statement_timeout_seconds: Longest run of a statement; 0 for no bound.
        lock_timeout_seconds: Longest wait for a lock; then `TransactionConflict`.
        idle_transaction_timeout_seconds: Longest idle time of a transaction. After it the server ends the
            transaction, because its locks would block other transactions.
        ping_after_idle_seconds: A connection that was idle for longer is pinged before the pool hands it out. A
            ping before each use would cost every transaction a round trip.
        max_connection_age_seconds: Age at which the pool replaces a connection by a new one.
        peer_timeout_seconds: How long sent data may stay unacknowledged before the connection counts as lost.
        application_name: Shown in pg_stat_activity.
        tls_mode: libpq's sslmode, such as `verify-full`; None leaves it to the URL.
        tls_root_certificate: File with the certificates that sign the server's.
        tls_certificate: The client's certificate, where the server asks for one.
        tls_key: Its key.
    """

    pool_min: int = 5
    pool_max: int = 20
    pool_timeout_seconds: float = 5.0
    connect_timeout_seconds: int = 10
    statement_timeout_seconds: float = 30.0
    lock_timeout_seconds: float = 5.0
    idle_transaction_timeout_seconds: float = 60.0
    ping_after_idle_seconds: float = 1.0
    max_connection_age_seconds: float = 1800.0
    peer_timeout_seconds: float = 20.0
    application_name: str = "qts_data"
    tls_mode: TlsMode | None = None
    tls_root_certificate: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values that would fail later or have no effect.

        Raises:
            ConfigurationError: A field is out of range; the message names it.
        """
        if not 1 <= self.pool_min <= self.pool_max:
            raise ConfigurationError(
                f"pool_min is {self.pool_min} and pool_max is {self.pool_max}; 1 <= pool_min <= pool_max must hold"
            )
        for name, least in _LEAST_SECONDS.items():
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not math.isfinite(seconds) or seconds < least:
                raise ConfigurationError(f"{name} must be a finite number of seconds from {least:g} on, is {seconds!r}")
        if self.connect_timeout_seconds > _MOST_CONNECT_SECONDS:
            raise ConfigurationError(
                f"connect_timeout_seconds must be at most {_MOST_CONNECT_SECONDS}, is {self.connect_timeout_seconds}"
            )
        if self.tls_mode is not None and self.tls_mode not in get_args(TlsMode):
            raise ConfigurationError(f"tls_mode must be one of {', '.join(get_args(TlsMode))}, is {self.tls_mode!r}")

    def connect_arguments(self) -> dict[str, Any]:
        """Return libpq's parameters of every connection."""
        tls = {
            "sslmode": self.tls_mode,
            "sslrootcert": self.tls_root_certificate,
            "sslcert": self.tls_certificate,
            "sslkey": self.tls_key,
        }
        return {
            "connect_timeout": self.connect_timeout_seconds,
            "application_name": self.application_name,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": round(1000 * self.peer_timeout_seconds),
            **{name: str(value) for name, value in tls.items() if value is not None},
        }

    def session_options(self) -> str:
        """Return the settings of every session, as libpq's `options`."""
        milliseconds = {
            "statement_timeout": self.statement_timeout_seconds,
            "lock_timeout": self.lock_timeout_seconds,
            "idle_in_transaction_session_timeout": self.idle_transaction_timeout_seconds,
        }
        # A blank would end a setting.
        settings = {name: value.replace(" ", "") for name, value in _SESSION.items()}
        settings |= {name: str(round(1000 * seconds)) for name, seconds in milliseconds.items()}
        return " ".join(f"-c {name}={value}" for name, value in settings.items())


_LEAST_SECONDS: Final = {
    "pool_timeout_seconds": 0.001,
    "connect_timeout_seconds": 1,
    "statement_timeout_seconds": 0,
    "lock_timeout_seconds": 0,
    "idle_transaction_timeout_seconds": 0,
    "ping_after_idle_seconds": 0,
    "max_connection_age_seconds": 0.001,
    "peer_timeout_seconds": 0.001,
}
"""Least value of each field that is a duration. 0 means no bound where it is allowed."""


def parse_url(text: str | URL) -> URL:
    """Read a database URL. Every usual spelling of the scheme means psycopg 3.

    Args:
        text: `timescaledb+psycopg://user:password@host:port/database`, also `postgresql://` or `postgres://`. A URL
            object is accepted, too.

    Raises:
        ConfigurationError: The text is not such a URL. The message does not repeat it, for it may hold a password.
    """
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigurationError(
            "the database URL cannot be read; write timescaledb+psycopg://user:password@host:5432/database"
        ) from None
    if url.drivername not in _SCHEMES:
        raise ConfigurationError(
            f"the database URL begins with {url.drivername}://; only PostgreSQL over psycopg is supported: "
            "timescaledb+psycopg://user:password@host:5432/database"
        )
    return url.set(drivername=_DRIVER)


def engine(
    url: URL,
    config: DatabaseConfig | None = None,
    *,
    connect_timeout_seconds: int = 10,
    application_name: str = "qts_data",
) -> Engine:
    """Return a blocking engine for commands and migrations. It holds no connection between uses.

    Args:
        url: The database.
        config: TLS and how to connect. Its statement timeouts are not applied: a command runs as long as it needs.
        connect_timeout_seconds: Without a configuration, the longest wait for a connection.
        application_name: Without a configuration, the name in pg_stat_activity.
    """
    arguments = {"connect_timeout": connect_timeout_seconds, "application_name": application_name}
    made = sa.create_engine(
        url,
        poolclass=sa.NullPool,
        connect_args={**(arguments if config is None else config.connect_arguments()), **UTF8_ARGUMENTS},
    )
    _settle_sessions(made)
    return made


def async_engine(url: URL, config: DatabaseConfig | None = None) -> AsyncEngine:
    """Return an async engine with a bounded pool. It connects at the first use."""
    config = config or DatabaseConfig()
    given = url.query.get("options", "")
    options = f"{config.session_options()} {given if isinstance(given, str) else ' '.join(given)}".strip()
    made = create_async_engine(
        # Options of the URL come last and win, except against `_SESSION`.
        url.update_query_dict({"options": options}),
        pool_size=config.pool_min,
        max_overflow=config.pool_max - config.pool_min,
        pool_timeout=config.pool_timeout_seconds,
        pool_recycle=round(config.max_connection_age_seconds),
        # The connection that was used last needs no ping.
        pool_use_lifo=True,
        # Once psycopg has prepared a statement by itself, it sends DEALLOCATE ALL after each ROLLBACK. That would drop
        # our prepared statements, too.
        connect_args=config.connect_arguments()
        | {"prepare_threshold": None, "async_creator_fn": WatchedConnection.connect, **UTF8_ARGUMENTS},
    )
    _settle_sessions(made.sync_engine)
    _ping_idle_connections(made.sync_engine, config.ping_after_idle_seconds)
    return made


def _settle_sessions(made: Engine) -> None:
    """Give each new connection the settings of `_SESSION`, and refuse a database that does not store UTF-8.

    The server's reports tell both, so that a connection costs no question. libpq sends PGTZ and PGDATESTYLE after its
    `options`, where they win; only then is a SET sent.
    """

    def settle(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        driver = record.driver_connection
        if driver is None:
            return
        try:
            _require_utf8(driver.pgconn)
            wrong = {
                name: value
                for name, value in _SESSION.items()
                if driver.pgconn.parameter_status(name.encode()) != value.encode()
            }
            if wrong:
                # Inside a transaction, SET would need a COMMIT.
                connection.autocommit = True
                cursor = connection.cursor()
                cursor.execute("; ".join(f"SET SESSION {name} = '{value}'" for name, value in wrong.items()))
                cursor.close()
                connection.autocommit = False
        except BaseException:
            connection.close()
            raise

    # Runs before SQLAlchemy's own queries.
    event.listen(made, "connect", settle, insert=True)


def _require_utf8(connection: PGconn) -> None:
    found = connection.parameter_status(b"server_encoding")
    if found is not None and found != b"UTF8":
        name = connection.db.decode(errors="replace")
        raise ConfigurationError(
            f"the database {name!r} has the encoding {found.decode(errors='replace')}, which does not hold every symbol"
            "; create one with ENCODING 'UTF8' TEMPLATE template0, and copy the data"
        )


def _ping_idle_connections(made: Engine, after_seconds: float) -> None:
    @event.listens_for(made, "checkin")
    def _remember(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(made, "checkout")
    def _ping(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        since = record.info.get("idle_since")
        if since is None or time.monotonic() - since < after_seconds:
            return
        dialect = made.dialect
        try:
            alive = dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error:
            alive = False
        if not alive:
            # The other connections of the pool have most likely failed in the same way. The pool replaces all of
            # them and tries again.
            raise sa.exc.InvalidatePoolError
