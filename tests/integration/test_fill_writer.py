"""Fills of many tasks booked together: their order, shared transactions, and independent failures."""

from __future__ import annotations

import asyncio
import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import pytest
import pytest_asyncio
import sqlalchemy as sa

from qts_data.contracts import BookedFill, Reversal
from qts_data.errors import (
    CheckViolated,
    DatabaseUnavailable,
    InvalidRecord,
    LedgerConflict,
    OutcomeUnknown,
    WriterClosed,
)
from qts_data.repositories import Database
from qts_data.writers import FillWriter
from tests.fixtures.factories import FillFactory
from tests.fixtures.waiting import eventually, waits_for_a_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

    from qts_data.contracts import LedgerEntry
    from tests.fixtures.fix_proxy import Proxy


@pytest_asyncio.fixture
async def book(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


def buy(qty: int = 1, **fields: Any) -> LedgerEntry:
    return FillFactory.build(**{"side": "BUY", "qty": Decimal(qty), "price": Decimal(100), **fields})


async def quantity(book: Database, symbol: str = "005930") -> Decimal:
    async with book.reader() as reader:
        assert (await reader.positions.verify_positions()).mismatches == ()
        return (await reader.positions.get_position(symbol)).qty


async def test_fill_of_a_remembered_position_takes_one_round_trip(proxy: Proxy) -> None:
    """The writer books a fill of a position that it knows in one round trip, commit included."""
    async with Database(proxy.url) as book, FillWriter(book) as writer:
        await writer.record_fill(buy())
        # Statements are prepared at their first use, in the same round trip.
        for total in (2, 3):
            before = proxy.round_trips
            booked = await writer.record_fill(buy())
            assert proxy.round_trips - before == 1
            assert booked.position.qty == total
        assert await quantity(book) == 3


async def test_concurrent_fills_share_transactions_in_order(proxy: Proxy) -> None:
    """400 fills take fewer than 40 round trips and are booked in the order of the calls."""
    async with Database(proxy.url) as book, FillWriter(book, max_group=100) as writer:
        await writer.record_fill(buy())
        before = proxy.round_trips
        results = await asyncio.gather(*(writer.record_fill(buy()) for _ in range(400)))
        assert proxy.round_trips - before < 40
        assert [one.position.qty for one in results] == list(range(2, 402))
        ids = [one.ledger_id for one in results]
        assert ids == sorted(set(ids))
        assert await quantity(book) == 401


async def test_bound_on_waiting_fills_delays_and_loses_nothing(book: Database) -> None:
    async with FillWriter(book, max_group=2, max_waiting=3) as writer:
        results = await asyncio.gather(*(writer.record_fill(buy()) for _ in range(20)))
    assert sorted(one.position.qty for one in results) == list(range(1, 21))


async def test_a_fill_that_comes_twice_is_booked_once(book: Database) -> None:
    one, other = buy(2), buy(3)
    async with FillWriter(book) as writer:
        first, again, second = await asyncio.gather(*map(writer.record_fill, (one, one, other)))
        late = await writer.record_fill(one)
    assert [first.duplicate, again.duplicate, second.duplicate, late.duplicate] == [False, True, False, True]
    assert first.ledger_id == again.ledger_id == late.ledger_id
    assert late.position.qty == 2
    assert await quantity(book) == 5


async def test_refused_fill_spares_its_group(book: Database) -> None:
    known = buy(execution_id="known")
    async with FillWriter(book) as writer:
        await writer.record_fill(known)
        other = buy(9, execution_id="known")
        dollars = buy(currency="USD")
        results = await asyncio.gather(
            *map(writer.record_fill, (buy(), other, buy(), dollars, buy())), return_exceptions=True
        )
        assert [type(one).__name__ for one in results] == [
            "BookedFill", "LedgerConflict", "BookedFill", "InvalidRecord", "BookedFill",
        ]  # fmt: skip
        # Also alone, when the writer remembers the position.
        with pytest.raises(LedgerConflict, match="another fill has this execution id"):
            await writer.record_fill(other)
        with pytest.raises(InvalidRecord, match="currency"):
            await writer.record_fill(dollars)
        assert (await writer.record_fill(buy())).position.qty == 5
    assert await quantity(book) == 5


async def test_a_report_that_waits_is_booked_with_its_fill(book: Database) -> None:
    async with FillWriter(book) as writer:
        entry = buy(7)
        await writer.record_fill(buy())
        assert entry.execution_id is not None
        bust = Reversal(
            timestamp=entry.timestamp, broker=entry.broker, account=entry.account,
            execution_id="bust", reverses=entry.execution_id,
        )  # fmt: skip
        async with book.transaction() as uow:
            assert await uow.ledger.reverse_fill(bust) is None
        booked = await writer.record_fill(entry)
        assert [one.position.qty for one in (booked, *booked.applied)] == [8, 1]
        assert (await writer.record_fill(buy())).position.qty == 2
    assert await quantity(book) == 2


async def test_bookings_of_others_are_not_overwritten(book: Database, database_url: URL) -> None:
    async with Database(database_url) as elsewhere, FillWriter(book) as writer:
        await writer.record_fill(buy())
        async with elsewhere.transaction() as uow:
            await uow.ledger.record_fill(buy(10))
        assert (await writer.record_fill(buy())).position.qty == 12
    assert await quantity(book) == 12


async def test_a_position_that_was_put_right_meanwhile_stays_right(book: Database) -> None:
    async with FillWriter(book) as writer:
        await writer.record_fill(buy(5))
        async with book.transaction() as uow:
            await uow.connection.execute(sa.text("UPDATE positions SET cost_basis = 1"))
        await writer.record_fill(buy(1))
        # The writer has read the wrong position and remembers it.
        async with book.transaction() as uow:
            assert await uow.positions.restore_positions()
        booked = await writer.record_fill(buy(1))
    assert [booked.position.qty, booked.position.cost_basis] == [7, 700]
    async with book.reader() as reader:
        mismatches = (await reader.positions.verify_positions()).mismatches
    # The entry computed from the wrong position stays as booked.
    assert {one.ledger_id for one in mismatches} == {2}


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_group_whose_commit_got_no_answer_is_simply_sent_again(
    proxy: Proxy, when: Literal["before", "after"], remembered: bool
) -> None:
    async with Database(proxy.url) as book, FillWriter(book) as writer:
        entries = [buy(1)] if remembered else [buy(1), buy(1)]
        await writer.record_fill(buy(1))
        await asyncio.gather(*(writer.record_fill(buy(1)) for _ in range(3)))
        proxy.cut_at(b"qts_commit", when=when)
        results = await asyncio.gather(*map(writer.record_fill, entries), return_exceptions=True)
        assert [type(one) for one in results] == [OutcomeUnknown] * len(entries)
        again = [await writer.record_fill(entry) for entry in entries]
        assert [one.duplicate for one in again] == [when == "after"] * len(entries)
        assert await quantity(book) == 4 + len(entries)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_lone_fill_of_unknown_outcome_may_be_sent_again(proxy: Proxy, when: Literal["before", "after"]) -> None:
    """The answer to its commit is lost. The same fill sent again is a duplicate if it was booked."""
    async with Database(proxy.url) as book, FillWriter(book) as writer:
        for _ in range(3):
            await writer.record_fill(buy(1))
        proxy.cut_at(b"qts_commit", when=when)
        lost = buy(1)
        sent = asyncio.create_task(writer.record_fill(lost))
        await asyncio.sleep(0)
        waits = asyncio.create_task(writer.record_fill(buy(1)))
        with pytest.raises(OutcomeUnknown):
            await sent
        assert (await waits).position.qty == (5 if when == "after" else 4)
        assert (await writer.record_fill(lost)).duplicate == (when == "after")
        assert await quantity(book) == 5


async def test_refused_lone_fill_raises_and_the_next_is_booked(book: Database) -> None:
    """A conflict and a wrong currency are raised to their callers only."""
    known = buy(execution_id="known")
    async with FillWriter(book) as writer:
        for entry in (known, buy(), buy()):
            await writer.record_fill(entry)
        assert (await writer.record_fill(known)).duplicate
        await writer.record_fill(buy())
        with pytest.raises(LedgerConflict, match="another fill has this execution id"):
            await writer.record_fill(buy(9, execution_id="known"))
        await writer.record_fill(buy())
        with pytest.raises(InvalidRecord, match="currency"):
            await writer.record_fill(buy(currency="USD"))
        assert (await writer.record_fill(buy())).position.qty == 6
    assert await quantity(book) == 6


async def test_lone_fill_of_a_cancelled_task_is_booked(proxy: Proxy) -> None:
    """The cancelled call has sent its fill. Listeners are called, and the connection stays in use."""
    notified: list[BookedFill] = []
    async with Database(proxy.url) as book:
        book.on_booked(lambda booked, _: notified.append(booked))
        async with FillWriter(book) as writer:
            for _ in range(3):
                await writer.record_fill(buy())
            connections = proxy.connections
            for _ in range(5):
                task = asyncio.create_task(writer.record_fill(buy()))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await writer.record_fill(buy())
            assert proxy.connections == connections
        assert [one.position.qty for one in notified] == list(range(1, 14))
        assert await quantity(book) == 13


async def test_closing_waits_for_a_lone_fill_that_is_under_way(book: Database) -> None:
    async with FillWriter(book) as writer:
        for _ in range(3):
            await writer.record_fill(buy())
        task = asyncio.create_task(writer.record_fill(buy()))
        await asyncio.sleep(0)
    assert task.done()
    assert (await task).position.qty == 4


async def test_connection_lost_while_idle_is_replaced_unseen(proxy: Proxy) -> None:
    """The next fills are booked without an error."""
    async with Database(proxy.url) as book, FillWriter(book) as writer:
        await writer.record_fill(buy())
        proxy.cut()
        await asyncio.sleep(0.05)
        assert (await writer.record_fill(buy())).position.qty == 2
        proxy.cut()
        await asyncio.sleep(0.05)
        results = await asyncio.gather(*(writer.record_fill(buy()) for _ in range(5)))
        assert results[-1].position.qty == 7


async def test_absent_server_raises_in_every_waiting_call(proxy: Proxy) -> None:
    """Each waiting call raises `DatabaseUnavailable`."""
    async with Database(proxy.url) as book, FillWriter(book) as writer:
        await writer.record_fill(buy())
        await proxy.stop()
        await asyncio.sleep(0.05)
        results = await asyncio.gather(*(writer.record_fill(buy()) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in results] == [DatabaseUnavailable] * 3


async def test_fill_refused_by_the_server_spares_its_group(book: Database) -> None:
    """The server refuses one fill by a constraint that the package does not know. The others are booked."""
    async with book.transaction() as uow:
        await uow.connection.execute(
            sa.text(
                "ALTER TABLE t_ledger ADD CONSTRAINT whatever_the_package_does_not_know CHECK (strategy_tag <> 'bad')"
            )
        )
    entries = [buy(), buy(), buy(strategy_tag="bad"), buy()]
    async with FillWriter(book) as writer:
        results = await asyncio.gather(*map(writer.record_fill, entries), return_exceptions=True)
    assert [type(one) for one in results] == [BookedFill, BookedFill, CheckViolated, BookedFill]
    assert await quantity(book) == 3


async def test_id_booked_meanwhile_fails_its_own_fill_only(book: Database) -> None:
    """Another transaction books an execution id of the group. Only that fill raises `LedgerConflict`."""
    taken = buy(symbol="OTHER", execution_id="X")
    async with FillWriter(book) as writer:
        await writer.record_fill(buy())
        async with book.transaction() as uow:
            await uow.ledger.record_fill(taken)
            entries = [buy(), buy(execution_id="X"), buy()]
            tasks = [asyncio.create_task(writer.record_fill(entry)) for entry in entries]
            await eventually(lambda: waits_for_a_transaction(book))
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in results] == [BookedFill, LedgerConflict, BookedFill]
    assert await quantity(book) == 3


async def test_a_fill_may_come_with_any_offset(book: Database) -> None:
    at = dt.datetime(2026, 11, 20, 12, tzinfo=dt.timezone(dt.timedelta(hours=20)))
    async with FillWriter(book) as writer:
        await asyncio.gather(*(writer.record_fill(buy(timestamp=at)) for _ in range(3)))
    async with book.reader() as reader:
        assert {one.entry.timestamp for one in await reader.ledger.list_entries()} == {at}


@pytest.mark.parametrize("cancelled", [False, True])
async def test_closing_books_fills_that_wait_for_room(book: Database, *, cancelled: bool) -> None:
    writer = FillWriter(book, max_waiting=1)
    await writer.__aenter__()
    waiting = [asyncio.create_task(writer.record_fill(buy())) for _ in range(5)]
    await asyncio.sleep(0)
    if cancelled:
        closing = asyncio.create_task(writer.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
    else:
        await writer.close()
    assert [(await one).position.qty for one in waiting] == [1, 2, 3, 4, 5]
    await writer.close()
    assert "Current Checked out connections: 0" in book.engine.pool.status()
    assert await quantity(book) == 5


async def test_closing_books_waiting_fills_and_takes_no_more(book: Database) -> None:
    writer = FillWriter(book, max_group=3)
    async with writer:
        waiting: list[asyncio.Task[BookedFill]] = [asyncio.create_task(writer.record_fill(buy())) for _ in range(10)]
        await asyncio.sleep(0)
    assert [(await one).position.qty for one in waiting] == list(range(1, 11))
    with pytest.raises(WriterClosed, match="closed"):
        await writer.record_fill(buy())
    assert await quantity(book) == 10


async def test_task_cancelled_while_it_waits_spares_the_others(book: Database) -> None:
    """The fill of the cancelled call is not booked. All others are."""
    async with FillWriter(book, max_group=1) as writer:
        tasks = [asyncio.create_task(writer.record_fill(buy())) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[3], asyncio.CancelledError)
    assert [one.position.qty for one in results if not isinstance(one, BaseException)] == [1, 2, 3, 4]
    assert await quantity(book) == 4
