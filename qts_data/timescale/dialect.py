"""`timescaledb+psycopg://` for SQLAlchemy, sync and async, without losing Alembic.

sqlalchemy-timescaledb brings the table argument `timescaledb_hypertable` and dialects for psycopg2 and
asyncpg whose name is `timescaledb`. That name turns off everything keyed on `postgresql`: Alembic's own
implementation, `with_variant`, `@compiles`. These dialects keep `name = "postgresql"`, so all of it works,
and none of that library's DDL listeners fires: the migrations own every statement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect

__all__ = ["TimescaleDialect", "TimescaleDialectAsync", "register"]


class TimescaleDialect(PGDialect_psycopg):
    """PostgreSQL over psycopg 3, reached by a `timescaledb+psycopg://` URL."""

    supports_statement_cache = True

    @classmethod
    def get_async_dialect_cls(cls, url: object) -> type[Dialect]:  # noqa: ARG003 - SQLAlchemy's signature
        """The same URL serves `create_async_engine`."""
        return TimescaleDialectAsync


class TimescaleDialectAsync(PGDialectAsync_psycopg):
    """The async twin."""

    supports_statement_cache = True

    @classmethod
    def get_async_dialect_cls(cls, url: object) -> type[Dialect]:  # noqa: ARG003 - SQLAlchemy's signature
        """Already async."""
        return cls


def register() -> None:
    """Make the URLs known where the package's entry points are not installed (a source tree)."""
    registry.register("timescaledb.psycopg", __name__, "TimescaleDialect")
    registry.register("timescaledb.psycopg_async", __name__, "TimescaleDialectAsync")
