"""Engines: where URLs become SQLAlchemy engines, with timeouts and UTC on every connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

# Registers timescaledb+psycopg:// for URLs.
import qts_data.timescale  # noqa: F401
from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["async_engine", "engine", "parse_url"]

_DRIVER: Final = "timescaledb+psycopg"
_SCHEMES: Final = {
    "postgres",
    "postgresql",
    "postgresql+psycopg",
    "timescaledb",
    "timescaledb+psycopg",
}


def parse_url(text: str) -> URL:
    """Read a database URL; every usual spelling of the scheme means psycopg 3.

    Args:
        text: `timescaledb+psycopg://user:password@host:port/database`, also `postgresql://` or `postgres://`.

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


def _connect_arguments(connect_timeout_seconds: int, application_name: str) -> dict[str, Any]:
    return {"connect_timeout": connect_timeout_seconds, "application_name": application_name}


def engine(url: URL, *, connect_timeout_seconds: int = 10, application_name: str = "qts_data") -> Engine:
    """A blocking engine that holds no connection between uses; for commands and migrations."""
    return sa.create_engine(
        url,
        poolclass=sa.NullPool,
        connect_args=_connect_arguments(connect_timeout_seconds, application_name),
    )


def async_engine(url: URL, *, connect_timeout_seconds: int = 10, application_name: str = "qts_data") -> AsyncEngine:
    """An async engine with pre-ping."""
    return create_async_engine(
        url,
        pool_pre_ping=True,
        connect_args=_connect_arguments(connect_timeout_seconds, application_name),
    )
