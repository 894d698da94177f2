"""Normal forms of SELECTs, as the server itself writes them: temporary views, read back and removed.

So definitions can be compared exactly, without a parser.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.timescale import ddl

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.engine import Connection

__all__ = ["column_types", "normal_forms"]

_MISSING: Final = {"42703", "42P01", "42883", "42725", "42804"}
"""undefined_column, undefined_table, undefined_function, ambiguous_function, datatype_mismatch.

The last three concern columns whose type this migration has yet to change. Any other error, such as a missing right,
proves nothing about the schema."""


def normal_forms(connection: Connection, selects: Sequence[str]) -> list[str | None]:
    """Return each SELECT in normal form. None for one that reads a missing column or one of another type.

    All of them together cost four round trips. Only if one fails, each is read separately. It works in a transaction,
    which stays open, and in autocommit mode.
    """
    if not selects:
        return []
    try:
        with _temporary_views(connection, selects):
            texts = connection.scalars(
                sa.text(
                    "SELECT pg_get_viewdef(to_regclass('pg_temp.qts_normal_form_' || n)) "
                    "FROM generate_series(1, :count) AS n ORDER BY n"
                ),
                {"count": len(selects)},
            ).all()
    except sa.exc.ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) not in _MISSING:
            raise
        if len(selects) == 1:
            return [None]
        return [form for select in selects for form in normal_forms(connection, [select])]
    return [text.strip() for text in texts]


def column_types(connection: Connection, select: str) -> dict[str, str]:
    """Return the types of a SELECT's columns as the server writes them."""
    with _temporary_views(connection, [select]):
        rows = connection.execute(
            sa.text(
                "SELECT attname, format_type(atttypid, atttypmod) AS kind FROM pg_catalog.pg_attribute "
                "WHERE attrelid = to_regclass('pg_temp.qts_normal_form_1') AND attnum > 0"
            )
        ).all()
    return {row.attname: row.kind for row in rows}


@contextlib.contextmanager
def _temporary_views(connection: Connection, selects: Sequence[str]) -> Iterator[None]:
    with _forgotten(connection):
        connection.execute(
            ddl.verbatim(
                ";\n".join(
                    f"CREATE TEMPORARY VIEW qts_normal_form_{n} AS {select}" for n, select in enumerate(selects, 1)
                )
            )
        )
        yield


@contextlib.contextmanager
def _forgotten(connection: Connection) -> Iterator[None]:
    """Roll back everything that happens in the block."""
    if connection.dialect.detect_autocommit_setting(connection.connection.dbapi_connection):  # type: ignore[arg-type]
        # Without an open transaction a savepoint is impossible.
        connection.exec_driver_sql("BEGIN")
        try:
            yield
        finally:
            connection.exec_driver_sql("ROLLBACK")
        return
    savepoint = connection.begin_nested()
    try:
        yield
    finally:
        savepoint.rollback()
