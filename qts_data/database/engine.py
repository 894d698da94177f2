"""Engines: where URLs become SQLAlchemy engines, with timeouts and UTC on every connection."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

# Registers timescaledb+psycopg:// for URLs.
import qts_data.timescale  # noqa: F401
from qts_data.errors import ConfigurationError
from qts_data.timescale.endings import WatchedConnection

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

__all__ = ["DatabaseConfig", "TlsMode", "async_engine", "engine", "parse_url"]

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
    """How an engine connects; every duration is in seconds.

    Attributes:
        pool_min: Connections that are kept open once they were needed.
        pool_max: Most connections at a time.
        pool_timeout_seconds: Longest wait for a free connection; then `DatabaseUnavailable`.
        connect_timeout_seconds: Longest wait for a new connection, for each address of the host.
        statement_timeout_seconds: Longest run of a statement; 0 for no bound.
        lock_timeout_seconds: Longest wait for a lock; then `TransactionConflict`.
        idle_transaction_timeout_seconds: When the server ends a transaction that is idle: its locks would stop
            other transactions.
        ping_after_idle_seconds: A connection that was idle for longer is asked whether it still lives before it is
            handed out; a ping before each use would cost every transaction a round trip.
        max_connection_age_seconds: When a connection is replaced by a new one.
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
        """Refuse what would fail later, or never."""
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
        """What libpq is told about every connection."""
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
        """What the server is told about every session, as libpq's `options`."""
        milliseconds = {
            "statement_timeout": self.statement_timeout_seconds,
            "lock_timeout": self.lock_timeout_seconds,
            "idle_in_transaction_session_timeout": self.idle_transaction_timeout_seconds,
        }
        return "-c TimeZone=UTC -c DateStyle=ISO" + "".join(
            f" -c {name}={round(1000 * seconds)}" for name, seconds in milliseconds.items()
        )


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
"""Fields that are durations, with the least of each; 0 means no bound where it is allowed."""


def parse_url(text: str | URL) -> URL:
    """Read a database URL; every usual spelling of the scheme means psycopg 3.

    Args:
        text: `timescaledb+psycopg://user:password@host:port/database`, also `postgresql://` or `postgres://`; or a URL
            that was read before.

    Raises:
        ConfigurationError: It is no such URL; the text is not repeated, for it may hold a password.
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
    """A blocking engine that holds no connection between uses; for commands and migrations.

    Args:
        url: The database.
        config: TLS and how to connect; its timeouts of statements are left out, for a command may take its time.
        connect_timeout_seconds: Without a configuration, the longest wait for a connection.
        application_name: Without a configuration, the name in pg_stat_activity.
    """
    arguments = {"connect_timeout": connect_timeout_seconds, "application_name": application_name}
    return sa.create_engine(
        url, poolclass=sa.NullPool, connect_args=arguments if config is None else config.connect_arguments()
    )


def async_engine(url: URL, config: DatabaseConfig | None = None) -> AsyncEngine:
    """An async engine with a bounded pool; nothing connects before the first use."""
    config = config or DatabaseConfig()
    given = url.query.get("options", "")
    options = f"{config.session_options()} {given if isinstance(given, str) else ' '.join(given)}".strip()
    made = create_async_engine(
        # What the URL asks for comes last, and wins.
        url.update_query_dict({"options": options}),
        pool_size=config.pool_min,
        max_overflow=config.pool_max - config.pool_min,
        pool_timeout=config.pool_timeout_seconds,
        pool_recycle=round(config.max_connection_age_seconds),
        # The connection used last is the one that needs no ping.
        pool_use_lifo=True,
        # psycopg follows a ROLLBACK by DEALLOCATE ALL once it has prepared a statement by itself; ours would go, too.
        connect_args=config.connect_arguments()
        | {"prepare_threshold": None, "async_creator_fn": WatchedConnection.connect},
    )
    _ping_idle_connections(made.sync_engine, config.ping_after_idle_seconds)
    return made


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
            # The others of the pool have most likely met the same end: all are replaced, and the pool tries again.
            raise sa.exc.InvalidatePoolError
