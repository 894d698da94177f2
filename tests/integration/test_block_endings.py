"""Blocks that end their own transaction: hooks are called for rows of the table only."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Final

import pytest
import pytest_asyncio
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qts_data.database.engine import DatabaseConfig
from qts_data.database.pipeline import driver_connection
from qts_data.errors import DatabaseError, TransactionConflict
from qts_data.repositories import Database
from tests.fixtures.effort import amount
from tests.fixtures.factories import FillFactory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

    from qts_data.repositories import UnitOfWork

_numbers: Final = itertools.count(1)
UNDONE: Final = (
    "ROLLBACK", "ABORT", "ROLLBACK;", "/* x */ ROLLBACK", "-- x\nROLLBACK", "select 1; rollback", "ROLLBACK; BEGIN",
    "ROLLBACK AND CHAIN", "ROLLBACK; SELECT 1", "ROLLBACK; BEGIN; SELECT 1", "ROLLBACK WORK", "abort; begin; select 1",
)  # fmt: skip
STORED: Final = (
    "COMMIT", "END", "commit;", "/* x */ COMMIT", "select 1; commit", "COMMIT; BEGIN", "COMMIT AND CHAIN",
    "COMMIT WORK", "end; begin; select 1", "COMMIT; BEGIN; SELECT 1 / 0",
)  # fmt: skip
WAYS: Final = ("connection", "text", "session", "driver", "cursor")


@pytest_asyncio.fixture
async def book(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url, DatabaseConfig(pool_min=1, pool_max=2)) as made:
        yield made


async def send(uow: UnitOfWork, way: str, sql: str) -> None:
    if way == "connection":
        await uow.connection.exec_driver_sql(sql)
    elif way == "text":
        await uow.connection.execute(sa.text(sql))
    elif way == "session":
        await uow.session.execute(sa.text(sql))
    else:
        driver = await driver_connection(uow.connection)
        if way == "driver":
            await driver.execute(sql.encode())
        else:
            async with driver.cursor() as cursor:
                await cursor.execute(sql.encode())


async def stored(book: Database, prefix: str) -> set[str]:
    async with book.reader() as reader:
        found = await reader.connection.scalars(
            sa.text("SELECT execution_id FROM t_ledger WHERE execution_id LIKE :p"), {"p": f"{prefix}.%"}
        )
        return set(found)


class Notified:
    """Executions for which a hook, a listener, or a listener for doubtful changes was called."""

    def __init__(self, book: Database) -> None:
        self.hooks: list[str] = []
        self.booked: list[int] = []
        self.changed: list[str] = []
        self._removers = [
            book.on_booked(lambda booked, _: self.booked.append(booked.ledger_id)),
            book.on_changed(lambda _, symbol: self.changed.append(symbol)),
        ]

    def stop(self) -> None:
        for remove in self._removers:
            remove()

    async def fill(self, uow: UnitOfWork, execution_id: str) -> None:
        await uow.ledger.record_fill(FillFactory.build(execution_id=execution_id, symbol="S", side="BUY"))
        uow.after_commit(lambda: self.hooks.append(execution_id))


@pytest.mark.parametrize("way", WAYS)
async def test_end_sent_as_sql_raises_and_notifies_nothing(book: Database, way: str) -> None:
    notified = Notified(book)
    for sql in (*UNDONE, *STORED):
        for after in (False, True):
            prefix = f"e{next(_numbers)}"
            with pytest.raises(DatabaseError) as caught:
                async with book.transaction() as uow:
                    await notified.fill(uow, f"{prefix}.a")
                    with contextlib.suppress(sa.exc.DBAPIError, Exception):
                        await send(uow, way, sql)
                    if after and "1 / 0" not in sql:
                        await notified.fill(uow, f"{prefix}.b")
            assert caught.value.sqlstate == "25P01", sql
            assert await stored(book, prefix) == ({f"{prefix}.a"} if sql in STORED else set()), sql
            assert ("everything before it is stored" in str(caught.value)) == (sql in STORED), sql
            assert bool(notified.changed) == (sql in STORED), sql
            notified.changed.clear()
    assert (notified.hooks, notified.booked) == ([], [])


@pytest.mark.parametrize("way", ["rollback", "commit", "transaction", "outer", "pgconn", "stream"])
async def test_end_by_the_driver_raises_and_notifies_nothing(book: Database, way: str) -> None:
    notified, prefix = Notified(book), f"d{next(_numbers)}"
    with pytest.raises(DatabaseError) as caught:
        async with book.transaction() as uow:
            driver = await driver_connection(uow.connection)
            if way == "outer":
                async with driver.transaction():
                    await notified.fill(uow, f"{prefix}.a")
            else:
                await notified.fill(uow, f"{prefix}.a")
            if way in ("rollback", "commit"):
                await getattr(driver, way)()
            elif way == "transaction":
                async with driver.transaction(force_rollback=True):
                    await notified.fill(uow, f"{prefix}.b")
            elif way == "pgconn":
                driver.pgconn.exec_(b"ROLLBACK")
                await notified.fill(uow, f"{prefix}.b")
            elif way == "stream":
                with contextlib.suppress(Exception):
                    async for _ in driver.cursor().stream("ROLLBACK AND CHAIN"):
                        pass
    assert caught.value.sqlstate == "25P01"
    assert await stored(book, prefix) == ({f"{prefix}.a"} if way in ("commit", "outer") else set())
    assert (notified.hooks, notified.booked) == ([], [])


@pytest.mark.parametrize("error", [ValueError, TransactionConflict])
async def test_block_that_fails_after_its_commit_names_it(book: Database, error: type[Exception]) -> None:
    notified, prefix, runs = Notified(book), f"f{next(_numbers)}", 0

    async def work(uow: UnitOfWork) -> None:
        nonlocal runs
        runs += 1
        await notified.fill(uow, f"{prefix}.{runs}")
        await send(uow, "text", "COMMIT")
        raise error("mine")

    with pytest.raises(DatabaseError, match="everything before it is stored") as caught:
        await book.run(work)
    assert isinstance(caught.value.__cause__, error)
    assert (runs, notified.hooks, notified.booked, notified.changed) == (1, [], [], ["S"])
    assert await stored(book, prefix) == {f"{prefix}.1"}


async def test_end_inside_a_savepoint_raises_there(book: Database) -> None:
    prefix = f"s{next(_numbers)}"
    for sql in ("ROLLBACK; BEGIN; SAVEPOINT sa_savepoint_1", "COMMIT AND CHAIN"):
        with pytest.raises(DatabaseError) as caught:
            async with book.transaction() as uow:
                with contextlib.suppress(DatabaseError):
                    async with uow.savepoint():
                        await send(uow, "text", sql)
        assert caught.value.sqlstate == "25P01"
    assert await stored(book, prefix) == set()


HARMLESS: Final = (
    "SELECT 1", "/* commit */ SELECT 'rollback'", "SAVEPOINT a", "ROLLBACK TO a", "RELEASE a", "BEGIN",
)  # fmt: skip
ENDINGS: Final = frozenset({*UNDONE, *STORED, "ROLLBACK TO a", "RELEASE a"})
STEPS: Final = st.lists(
    st.one_of(
        st.just(("fill", "")),
        st.just(("savepoint", "")),
        st.just(("undone savepoint", "")),
        st.tuples(st.sampled_from(WAYS), st.sampled_from([*UNDONE, *STORED])),
        st.tuples(st.sampled_from(WAYS), st.sampled_from(HARMLESS)),
    ),
    max_size=6,
)  # fmt: skip


@settings(
    max_examples=amount(25, 400), deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(steps=STEPS, upper=st.booleans())
async def test_any_program_of_endings_notifies_the_stored_rows(
    book: Database, steps: list[tuple[str, str]], upper: bool
) -> None:
    notified, prefix, places = Notified(book), f"p{next(_numbers)}", itertools.count()
    outcome: Exception | None = None
    try:
        async with book.transaction() as uow:
            for step, sql in steps:
                with contextlib.suppress(sa.exc.SQLAlchemyError, DatabaseError):
                    if step == "fill":
                        await notified.fill(uow, f"{prefix}.{next(places)}")
                    elif step.endswith("savepoint"):
                        with contextlib.suppress(KeyError):
                            async with uow.savepoint():
                                await notified.fill(uow, f"{prefix}.{next(places)}")
                                if step != "savepoint":
                                    raise KeyError
                    else:
                        try:
                            await send(uow, step, sql.upper() if upper else sql.lower())
                        except Exception as error:
                            if not hasattr(error, "sqlstate"):
                                raise
    except DatabaseError as error:
        outcome = error
    finally:
        notified.stop()
    found = await stored(book, prefix)
    if not any(sql in ENDINGS for _, sql in steps):
        assert outcome is None
    if outcome is None:
        assert found == set(notified.hooks)
        assert len(notified.booked) == len(found)
    else:
        assert (notified.hooks, notified.booked) == ([], [])
        assert not found or "everything before it is stored" in str(outcome)
