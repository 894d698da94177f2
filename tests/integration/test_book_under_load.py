"""The book with many writers and with faults: it equals the reference, and no fill is lost or doubled."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import functools
import itertools
import random
import secrets
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qts_data.contracts import Correction, LedgerEntry, Reversal
from qts_data.errors import LedgerConflict
from qts_data.repositories import Database
from tests.fixtures import reference_book as reference
from tests.fixtures.effort import amount
from tests.fixtures.factories import FillFactory
from tests.fixtures.reference_book import ReferenceBook, units

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.engine import URL

    from qts_data.contracts import Position
    from qts_data.repositories import UnitOfWork

CASES = amount(10, 25, "QTS_TEST_BOOK_CASES")
NOW = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)


@pytest_asyncio.fixture
async def book(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


def same(position: Position, state: reference.State) -> bool:
    figures = position.qty, position.cost_basis, position.realized_pnl, position.avg_price
    return tuple(map(units, figures)) == (state.qty, state.cost, state.realized, state.average)


def trade_of(entry: LedgerEntry) -> reference.Trade:
    return reference.Trade(units(entry.qty) * (1 if entry.side == "BUY" else -1), units(entry.price))


def money(value: int) -> Decimal:
    return Decimal(value).scaleb(-8)


def random_fills(count: int, symbols: int, seed: int) -> list[LedgerEntry]:
    choose = random.Random(seed)
    return [
        FillFactory.build(
            symbol=f"S{choose.randrange(symbols)}",
            side=choose.choice(["BUY", "SELL"]),
            qty=money(choose.choice([choose.randrange(1, 10**6), choose.randrange(1, 20) * 10**8])),
            price=money(choose.randrange(1, 10**10)),
            execution_id=f"X{number}",
        )
        for number in range(count)
    ]


async def in_the_order_of_booking(book: Database) -> dict[str, list[LedgerEntry]]:
    found: dict[str, list[LedgerEntry]] = defaultdict(list)
    async with book.reader() as reader:
        async for booked in reader.ledger.stream_entries():
            found[booked.entry.symbol].append(booked.entry)
    return found


async def assert_book_is(book: Database, fills: Sequence[LedgerEntry]) -> None:
    """Assert that every fill is booked once and every position equals the reference in the order of booking."""
    booked = await in_the_order_of_booking(book)
    # Two reports of a fill may differ in their time: either may have come first.
    found = [dataclasses.replace(entry, timestamp=NOW) for entries in booked.values() for entry in entries]
    wanted = [dataclasses.replace(entry, timestamp=NOW) for entry in fills]
    assert sorted(map(str, found)) == sorted(map(str, wanted))
    async with book.reader(snapshot=True) as reader:
        positions = {one.symbol: one async for one in reader.positions.stream()}
        assert (await reader.positions.verify_positions()).mismatches == ()
    assert positions.keys() == booked.keys()
    for symbol, entries in booked.items():
        assert same(positions[symbol], reference.fold([trade_of(entry) for entry in entries]))


@pytest.mark.soak
async def test_sixteen_writers_on_five_symbols(book: Database) -> None:
    fills = random_fills(amount(160, 480), 5, seed=1)

    async def write(mine: list[LedgerEntry]) -> None:
        async def all_of(entries: list[LedgerEntry], uow: UnitOfWork) -> None:
            for entry in entries:
                await uow.ledger.record_fill(entry)

        for entry in mine[2:]:
            await book.run(functools.partial(all_of, [entry]), attempts=50)
        # Two symbols in one transaction, in either order, can deadlock.
        await book.run(functools.partial(all_of, mine[:2]), attempts=50)

    async with asyncio.TaskGroup() as group:
        for writer in range(16):
            group.create_task(write(fills[writer::16]))
    await assert_book_is(book, fills)


@pytest.mark.soak
async def test_two_writers_of_the_same_fills_book_each_fill_once(book: Database) -> None:
    fills = random_fills(amount(2_000, 10_000), 40, seed=2)
    backwards = [dataclasses.replace(entry, timestamp=entry.timestamp + dt.timedelta(seconds=1)) for entry in fills]

    async def write(entries: list[LedgerEntry], size: int) -> int:
        new = 0
        for number in range(0, len(entries), size):
            part = entries[number : number + size]
            async with book.transaction() as uow:
                new += sum(not result.duplicate for result in await uow.ledger.record_fills(part))
        return new

    new = await asyncio.gather(write(fills, 1000), write(backwards[::-1], 700))
    assert sum(new) == len(fills)
    await assert_book_is(book, fills)


Event = tuple[str, str | None, reference.Trade | None, int]
"""Execution id, the id that it refers to, the trade, and the number of the symbol."""

sizes = st.one_of(st.integers(1, 30).map(lambda n: n * 10**8), st.integers(1, 10**9))
trades = st.builds(lambda qty, price, side: reference.Trade(qty * side, price), sizes, sizes, st.sampled_from([-1, 1]))


@st.composite
def histories(draw: st.DrawFn) -> list[list[Event]]:
    """Transactions of fills, busts and corrections of two symbols, in any order, some of them twice."""
    known: list[Event] = []
    for symbol in range(2):
        names = [f"{symbol}F{n}" for n in range(draw(st.integers(1, 4)))]
        known += [(name, None, draw(trades), symbol) for name in names]
        for n in range(draw(st.integers(0, 4))):
            name = f"{symbol}R{n}"
            known.append((name, draw(st.sampled_from(names)), draw(st.none() | trades), symbol))
            names.append(name)
    events = draw(st.lists(st.sampled_from(known), max_size=16))
    cuts = sorted(draw(st.sets(st.integers(0, len(events)))) | {0, len(events)})
    return [events[start:end] for start, end in itertools.pairwise(cuts)]


def entry_of(account: str, name: str, trade: reference.Trade, symbol: int) -> LedgerEntry:
    return FillFactory.build(
        account=account,
        symbol=f"S{symbol}",
        side="BUY" if trade.qty > 0 else "SELL",
        qty=money(abs(trade.qty)),
        price=money(trade.price),
        execution_id=name,
        timestamp=NOW,
    )


async def send(book: Database, account: str, event: Event) -> bool:
    """Whether the report was booked or kept."""
    name, target, trade, symbol = event
    async with book.transaction() as uow:
        try:
            if target is None:
                assert trade is not None
                await uow.ledger.record_fill(entry_of(account, name, trade, symbol))
            elif trade is not None:
                entry = entry_of(account, name, trade, symbol)
                await uow.ledger.correct_fill(Correction(entry=entry, corrects=target))
            else:
                report = Reversal(timestamp=NOW, broker="test", account=account, execution_id=name, reverses=target)
                await uow.ledger.reverse_fill(report)
        except LedgerConflict:
            return False
    return True


async def follow(database_url: URL, history: list[list[Event]]) -> None:
    account = secrets.token_hex(8)
    books = [ReferenceBook(), ReferenceBook()]
    async with Database(database_url) as book:
        for events in history:
            fills = [(name, trade, symbol) for name, target, trade, symbol in events if target is None and trade]
            if len(fills) == len(events):
                # Fills alone go as one batch.
                async with book.transaction() as uow:
                    await uow.ledger.record_fills([entry_of(account, *one) for one in fills])
                for name, trade, symbol in fills:
                    books[symbol].fill(name, trade)
                continue
            for event in events:
                booked = await send(book, account, event)
                name, target, content, symbol = event
                if target is not None:
                    assert booked is books[symbol].report(name, target, content)
                elif content is not None:
                    assert booked
                    books[symbol].fill(name, content)
        async with book.reader(snapshot=True) as reader:
            positions = {one.symbol: one for one in await reader.positions.list_positions(account=account)}
            entries = await reader.ledger.list_entries(account=account)
            assert (await reader.positions.verify_positions()).mismatches == ()
    for number, expected_book in enumerate(books):
        mine = [one for one in entries if one.entry.symbol == f"S{number}"]
        position = positions.get(f"S{number}")
        if position is None:
            assert not mine
            continue
        assert same(position, expected_book.state)
        cash = -sum(trade_of(one.entry).amount for one in mine)
        assert sum(units(one.realized_pnl) for one in mine) - units(position.cost_basis) == cash
    # Everything once more: nothing changes.
    async with Database(database_url) as book:
        for event in itertools.chain.from_iterable(history):
            await send(book, account, event)
        async with book.reader() as reader:
            assert {one.symbol: one for one in await reader.positions.list_positions(account=account)} == positions
            assert await reader.ledger.list_entries(account=account) == entries


@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_any_history_makes_the_book_of_the_reference(database_url: URL, history: list[list[Event]]) -> None:
    asyncio.run(follow(database_url, history))
