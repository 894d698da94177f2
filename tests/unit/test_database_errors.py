"""The driver's errors become ours by SQLSTATE, on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from qts_data.database.engine import engine, parse_url
from qts_data.database.errors import describe_url, translate, translate_commit, translated_errors
from qts_data.errors import (
    ConfigurationError,
    ConstraintViolated,
    DatabaseError,
    DatabaseUnavailable,
    SchemaMismatch,
    StatementTimeout,
    TransactionConflict,
    UniqueViolated,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


@pytest.mark.parametrize(
    ("statement", "kind", "sqlstate"),
    [
        ("SELECT 1/0", DatabaseError, "22012"),
        ("SELECT * FROM nowhere", SchemaMismatch, "42P01"),
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(5)", StatementTimeout, "57014"),
        ("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40001'; END $$", TransactionConflict, "40001"),
        ("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40P01'; END $$", TransactionConflict, "40P01"),
        ("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '53300'; END $$", DatabaseUnavailable, "53300"),
        ("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '08006'; END $$", DatabaseUnavailable, "08006"),
        ("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '25P03'; END $$", DatabaseUnavailable, "25P03"),
        ("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '23505'; END $$", UniqueViolated, "23505"),
    ],
)
def test_error_is_translated_by_its_code(
    empty_database: URL, statement: str, kind: type[DatabaseError], sqlstate: str
) -> None:
    with engine(empty_database).connect() as connection, pytest.raises(DatabaseError) as caught, translated_errors():
        connection.exec_driver_sql(statement)
    assert type(caught.value) is kind
    assert caught.value.sqlstate == sqlstate
    assert caught.value.__cause__ is not None


def test_a_violated_constraint_is_named(empty_database: URL) -> None:
    with engine(empty_database).connect() as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE t (x int CONSTRAINT ck_t_x CHECK (x > 0))")
        with pytest.raises(ConstraintViolated) as caught, translated_errors():
            connection.exec_driver_sql("INSERT INTO t VALUES (0)")
    assert caught.value.constraint == "ck_t_x"


def test_a_connection_that_the_server_ends_is_no_bad_data(empty_database: URL) -> None:
    with (
        engine(empty_database).connect() as connection,
        pytest.raises(DatabaseUnavailable) as caught,
        translated_errors(),
    ):
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
    assert caught.value.retryable


def test_lost_connection_is_recognised_by_its_first_line() -> None:
    guess = "\n\tThis probably means the server terminated abnormally\n\tbefore or while processing the request."
    ours = translate(psycopg.OperationalError(f"consuming input failed: server closed the connection{guess}"))
    assert type(ours) is DatabaseUnavailable
    assert str(ours) == "consuming input failed: server closed the connection"


def test_lost_connection_is_named_until_its_transaction_ends(empty_database: URL) -> None:
    """Its commit sends nothing, so its outcome is known."""
    with engine(empty_database).connect() as connection:
        with pytest.raises(DatabaseUnavailable), translated_errors():
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(DatabaseUnavailable, match="begin another one"), translated_errors():
            connection.exec_driver_sql("SELECT 1")
        with pytest.raises(sa.exc.PendingRollbackError) as caught:
            connection.commit()
        # Nothing was sent, so the outcome is known.
        assert type(translate_commit(caught.value)) is DatabaseUnavailable
        connection.rollback()
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


def test_failed_session_is_named_until_its_rollback(empty_database: URL) -> None:
    class Base(orm.DeclarativeBase):
        pass

    class Thing(Base):
        __tablename__ = "thing"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)

    with orm.Session(engine(empty_database)) as session:
        session.add(Thing(id=1))
        with pytest.raises(SchemaMismatch), translated_errors():
            session.flush()
        with pytest.raises(DatabaseError, match="has ended this transaction"), translated_errors():
            session.execute(sa.text("SELECT 1"))


def test_other_errors_stay_as_they_are() -> None:
    assert translate(ValueError("x")) is None
    assert translate(sa.exc.ArgumentError("x")) is None
    with pytest.raises(sa.exc.ArgumentError), translated_errors():
        raise sa.exc.ArgumentError("x")
    assert type(translate(psycopg.ProgrammingError("the connection is closed"))) is DatabaseError


@pytest.mark.parametrize(
    "text",
    ["postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d", "timescaledb+psycopg://u:p@h/d"],
)
def test_every_usual_spelling_of_the_scheme_is_read(text: str) -> None:
    url = parse_url(text)
    assert url.drivername == "timescaledb+psycopg"
    assert describe_url(url) == "u@h:5432/d"


def test_another_driver_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="asyncpg"):
        parse_url("postgresql+asyncpg://u:p@h/d")
