"""Transactions on a real server: commits, rollbacks, and the outcome after a lost connection."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from qts_data.database.engine import DatabaseConfig
from qts_data.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseUnavailable,
    OutcomeUnknown,
    SchemaMismatch,
    TransactionConflict,
    UniqueViolated,
)
from qts_data.models import RiskConfig
from qts_data.repositories import Database
from tests.fixtures.factories import FillFactory
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

    from qts_data.repositories import UnitOfWork
    from tests.fixtures.fix_proxy import Proxy

INSERT = "INSERT INTO risk_configs (config_key, value) VALUES ('{}', 1)"
COUNT = "SELECT count(*) FROM risk_configs"


@pytest_asyncio.fixture
async def book(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


async def count(database: Database) -> int:
    async with database.reader() as reader:
        found: int = await reader.connection.scalar(sa.text(COUNT))
        return found


async def insert(uow: UnitOfWork, key: str) -> None:
    await uow.connection.exec_driver_sql(INSERT.format(key))


async def test_transaction_commits_at_its_end_or_rolls_back(book: Database) -> None:
    """An error of the block rolls back and reaches the caller."""
    async with book.transaction() as uow:
        await insert(uow, "a")
    with pytest.raises(ValueError, match="mine"):
        async with book.transaction() as uow:
            await insert(uow, "b")
            raise ValueError("mine")
    assert await count(book) == 1


async def test_session_is_flushed_before_the_commit(book: Database) -> None:
    """A row added to the session is stored, and its violated constraint is raised at the end of the block."""
    async with book.transaction() as uow:
        uow.session.add(RiskConfig(config_key="a", value=1))
    assert await count(book) == 1
    with pytest.raises(UniqueViolated, match="pk_risk_configs"):
        async with book.transaction() as uow:
            uow.session.add(RiskConfig(config_key="a", value=1))


async def test_hooks_run_after_the_commit_and_never_without_one(
    book: Database, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[object] = []

    async def look() -> None:
        seen.append(await count(book))

    def fail() -> None:
        raise RuntimeError("a broken hook")

    async with book.transaction() as uow:
        await insert(uow, "a")
        uow.after_commit(fail)
        uow.after_commit(look)
        uow.after_commit(lambda: seen.append("at once"))
        assert seen == []
    assert seen == ["at once", 1]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    with pytest.raises(UniqueViolated):
        async with book.transaction() as uow:
            uow.after_commit(look)
            await insert(uow, "a")
    assert seen == ["at once", 1]


async def test_a_hook_may_take_the_only_connection_and_is_not_given_up(database_url: URL) -> None:
    seen: list[object] = []
    config = DatabaseConfig(pool_min=1, pool_max=1, pool_timeout_seconds=0.1)
    go_on = asyncio.Event()
    async with Database(database_url, config) as book:

        async def slow() -> None:
            await go_on.wait()
            seen.append(await count(book))

        async def work() -> None:
            async with book.transaction() as uow:
                await insert(uow, "a")
                uow.after_commit(slow)
                uow.after_commit(lambda: seen.append("at once"))
                uow.after_commit(slow)

        task = asyncio.create_task(work())
        await eventually(lambda: seen == ["at once"])
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert seen == ["at once", 1, 1]


@pytest.mark.parametrize("way", ["statement", "session", "conflict"])
async def test_failed_statement_in_a_going_block_raises_at_its_end(book: Database, way: str) -> None:
    """The block suppresses the error of a statement. Its end raises, and no hook runs."""
    notified: list[object] = []
    async with book.transaction() as uow:
        await insert(uow, "there")
    with pytest.raises(DatabaseError, match="a statement of the transaction failed") as caught:
        async with book.transaction() as uow:
            uow.after_commit(lambda: notified.append("committed"))
            await insert(uow, "lost")
            with contextlib.suppress(DatabaseError, sa.exc.DBAPIError):
                if way == "statement":
                    await insert(uow, "there")
                elif way == "session":
                    await uow.session.execute(sa.text("SELECT 1 / 0"))
                else:
                    await uow.positions.mark("S", Decimal(1), dt.datetime(2026, 11, 20, tzinfo=dt.UTC))
                    await uow.connection.exec_driver_sql("SELECT 1 / 0")
    assert caught.value.sqlstate == "25P02"
    assert notified == []
    assert await count(book) == 1


@pytest.mark.parametrize("way", ["commit", "rollback", "session"])
async def test_block_that_ends_its_own_transaction_raises(book: Database, way: str) -> None:
    notified: list[object] = []
    book.on_booked(lambda booked, _: notified.append(booked))
    with pytest.raises(DatabaseError, match="ended inside its block") as caught:
        async with book.transaction() as uow:
            await insert(uow, "first")
            if way == "session":
                await uow.session.execute(sa.text("SELECT 1"))
                await uow.session.rollback()
            else:
                await getattr(uow.connection, way)()
            await uow.ledger.record_fill(FillFactory.build())
    assert caught.value.sqlstate == "25P01"
    assert notified == []
    assert await count(book) == (1 if way == "commit" else 0)
    async with book.reader() as reader:
        assert await reader.ledger.list_entries() == []


async def test_connection_lost_in_a_going_block_commits_nothing(proxy: Proxy) -> None:
    """The block suppresses the loss of its connection. Its end says that nothing was committed."""
    async with Database(proxy.url) as book:
        with pytest.raises(DatabaseUnavailable, match="nothing was committed"):
            async with book.transaction() as uow:
                await insert(uow, "a")
                proxy.cut()
                with contextlib.suppress(sa.exc.DBAPIError):
                    await insert(uow, "b")
        assert await count(book) == 0


@pytest.mark.parametrize("way", ["ours", "connection", "session"])
async def test_fills_of_a_savepoint_rolled_back_are_not_notified(book: Database, way: str) -> None:
    notified: list[int] = []
    book.on_booked(lambda booked, _: notified.append(booked.ledger_id))
    async with book.transaction() as uow:
        kept = await uow.ledger.record_fill(FillFactory.build())
        ways: dict[str, Any] = {
            "ours": uow.savepoint, "connection": uow.connection.begin_nested, "session": uow.session.begin_nested,
        }  # fmt: skip
        with pytest.raises(ValueError, match="undo"):
            async with ways[way]():
                # The savepoint of a session is made when the session is used.
                await uow.session.execute(sa.text("SELECT 1"))
                async with uow.savepoint():
                    await uow.ledger.record_fill(FillFactory.build())
                raise ValueError("undo")
        with pytest.raises(UniqueViolated):
            async with uow.savepoint():
                await insert(uow, "a")
                await insert(uow, "a")
        async with uow.savepoint():
            also = await uow.ledger.record_fill(FillFactory.build())
    assert notified == [kept.ledger_id, also.ledger_id]
    async with book.reader() as reader:
        assert [one.id for one in await reader.ledger.list_entries()] == notified
        assert (await reader.positions.verify_positions()).mismatches == ()


async def test_a_reader_cannot_write(book: Database) -> None:
    with pytest.raises(DatabaseError) as caught:
        async with book.reader() as reader:
            await reader.connection.exec_driver_sql(INSERT.format("a"))
    assert caught.value.sqlstate == "25006"
    async with book.transaction() as uow:  # the same connection may write again
        await insert(uow, "a")


async def test_a_snapshot_sees_one_moment(book: Database) -> None:
    async with book.reader(snapshot=True) as reader, book.reader() as other:
        before = await reader.connection.scalar(sa.text(COUNT))
        assert await other.connection.scalar(sa.text(COUNT)) == before == 0
        async with book.transaction() as uow:
            await insert(uow, "a")
        assert await reader.connection.scalar(sa.text(COUNT)) == 0
        assert await other.connection.scalar(sa.text(COUNT)) == 1


async def test_a_deadlock_is_run_again_until_both_are_through(book: Database) -> None:
    async with book.transaction() as uow:
        await insert(uow, "a")
        await insert(uow, "b")
    met = asyncio.Barrier(2)
    runs = 0

    async def swap(first: str, second: str) -> None:
        waited = False

        async def work(uow: UnitOfWork) -> None:
            nonlocal runs, waited
            runs += 1
            update = "UPDATE risk_configs SET value = value + 1 WHERE config_key = '{}'"
            await uow.connection.exec_driver_sql(update.format(first))
            if not waited:
                waited = True
                await met.wait()
            await uow.connection.exec_driver_sql(update.format(second))

        await book.run(work)

    await asyncio.gather(swap("a", "b"), swap("b", "a"))
    async with book.reader() as reader:
        values = (await reader.connection.scalars(sa.text("SELECT value FROM risk_configs"))).all()
    assert values == [3, 3]
    assert runs == 3


async def test_the_last_attempt_raises_the_conflict(book: Database) -> None:
    runs = 0

    async def work(uow: UnitOfWork) -> None:
        nonlocal runs
        runs += 1
        await uow.connection.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40001'; END $$")

    with pytest.raises(TransactionConflict):
        await book.run(work, attempts=3)
    assert runs == 3


@pytest.mark.parametrize(("when", "rows"), [("before", 0), ("after", 1)])
async def test_commit_without_an_answer_has_an_unknown_outcome(proxy: Proxy, when: str, rows: int) -> None:
    async with Database(proxy.url) as database:
        with pytest.raises(OutcomeUnknown, match="look before"):
            async with database.transaction() as uow:
                await insert(uow, "a")
                proxy.cut_at(b"COMMIT", when=when)  # type: ignore[arg-type]
        assert await count(database) == rows


async def test_connection_lost_before_the_commit_changes_nothing(proxy: Proxy) -> None:
    """The loss is raised as `DatabaseUnavailable`, not as an unknown outcome."""
    async with Database(proxy.url) as database:
        with pytest.raises(DatabaseUnavailable):
            async with database.transaction() as uow:
                await insert(uow, "a")
                proxy.cut()
                await insert(uow, "b")
        assert await count(database) == 0


async def test_a_server_that_refuses_at_commit_leaves_no_doubt(book: Database) -> None:
    deferred = "CREATE TEMPORARY TABLE t (x int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    with pytest.raises(UniqueViolated):
        async with book.transaction() as uow:
            await uow.connection.exec_driver_sql(deferred)
            await uow.connection.exec_driver_sql("INSERT INTO t VALUES (1), (1)")


async def test_a_task_that_is_cancelled_during_its_commit_finishes_it(proxy: Proxy) -> None:
    done: list[str] = []
    async with Database(proxy.url) as database:

        async def work() -> None:
            async with database.transaction() as uow:
                await insert(uow, "a")
                uow.after_commit(lambda: done.append("hook"))
                task.get_loop().call_soon(task.cancel)

        task = asyncio.create_task(work())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await count(database), done) == (1, ["hook"])


async def test_a_server_that_was_starting_up_has_refused_nothing(proxy: Proxy) -> None:
    async with Database(proxy.url) as book:
        proxy.refuse_once(b"57P03")
        with pytest.raises(DatabaseUnavailable):
            await count(book)
        assert await count(book) == 0


async def test_connection_lost_under_a_block_keeps_the_block_error(proxy: Proxy) -> None:
    """The block's own error is raised, not that of the rollback. The pool gets its connection back."""
    async with Database(proxy.url) as book:
        with pytest.raises(ValueError, match="mine"):
            async with book.transaction() as uow:
                await insert(uow, "a")
                proxy.cut()
                raise ValueError("mine")
        async with book.reader() as reader:
            await reader.connection.scalar(sa.text(COUNT))
            proxy.cut()
        assert "Current Checked out connections: 0" in book.engine.pool.status()
        assert await count(book) == 0


async def test_task_cancelled_at_a_checkout_leaks_no_connection(proxy: Proxy) -> None:
    """The task is cancelled at each step of getting a connection. The pool gets every connection back."""
    async with Database(proxy.url) as database:
        for turns in range(40):
            task = asyncio.create_task(count(database))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            # Whatever was under way ends by itself.
            async with asyncio.timeout(60):
                while "Checked out connections: 0" not in database.engine.pool.status():  # noqa: ASYNC110 - the pool has no event
                    await asyncio.sleep(0.001)
        assert await count(database) == 0


async def test_connections_that_died_while_idle_are_replaced_unseen(proxy: Proxy) -> None:
    async with Database(proxy.url, DatabaseConfig(ping_after_idle_seconds=0)) as database:
        async with database.reader() as one, database.reader() as two:
            await one.connection.scalar(sa.text("SELECT 1"))
            await two.connection.scalar(sa.text("SELECT 1"))
        proxy.cut()
        assert await count(database) == 0


async def test_exhausted_pool_is_named_in_the_error(database_url: URL) -> None:
    config = DatabaseConfig(pool_min=1, pool_max=1, pool_timeout_seconds=0.05)
    async with Database(database_url, config) as database, database.reader():
        with pytest.raises(DatabaseUnavailable, match="pool"):
            async with database.reader():
                pass


async def test_sessions_have_timeouts_and_utc(book: Database) -> None:
    names = "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "TimeZone"
    async with book.reader() as reader:
        values = [await reader.connection.scalar(sa.text(f"SHOW {name}")) for name in names]
    assert values == ["30s", "5s", "1min", "UTC"]


async def test_options_of_the_url_win(database_url: URL) -> None:
    url = database_url.update_query_dict({"options": "-c statement_timeout=7s"})
    async with Database(url) as database, database.reader() as reader:
        assert await reader.connection.scalar(sa.text("SHOW statement_timeout")) == "7s"
        assert await reader.connection.scalar(sa.text("SHOW lock_timeout")) == "5s"


async def test_a_missing_table_is_a_schema_that_does_not_fit(book: Database) -> None:
    with pytest.raises(SchemaMismatch, match="qts-data status"):
        async with book.reader() as reader:
            await reader.connection.exec_driver_sql("SELECT * FROM nowhere")


async def test_health_answers_in_every_state(book: Database, database_url: URL) -> None:
    good = await book.health()
    assert good.healthy
    assert "PostgreSQL 1" in good.detail
    assert good.latency_seconds is not None
    async with Database(database_url.set(host="127.0.0.1", port=1, query={})) as away:
        bad = await away.health()
    assert not bad.healthy
    assert "no PostgreSQL server answers" in bad.detail
    assert bad.latency_seconds is None
    slow = await book.health(timeout_seconds=0)
    assert not slow.healthy
    assert "within 0 seconds" in slow.detail


def test_pool_smaller_than_its_minimum_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="pool_min is 5 and pool_max is 2"):
        DatabaseConfig(pool_max=2)


def test_tls_reaches_the_driver() -> None:
    from pathlib import Path

    config = DatabaseConfig(tls_mode="verify-full", tls_root_certificate=Path("ca.pem"))
    arguments = config.connect_arguments()
    assert (arguments["sslmode"], arguments["sslrootcert"]) == ("verify-full", "ca.pem")
    assert "sslmode" not in DatabaseConfig().connect_arguments()


async def test_prepared_query_rolled_back_leaves_booking_intact(database_url: URL) -> None:
    """A prepared query of a rolled-back reader does not disturb later bookings on the same connection."""
    async with Database(database_url, DatabaseConfig(pool_min=1, pool_max=1)) as database:
        for _ in range(2):
            async with database.transaction() as uow:
                await uow.ledger.record_fill(FillFactory.build())
            async with database.reader() as reader:
                for _ in range(8):
                    await reader.positions.list_positions()
