"""The book on a real server: worked examples, duplicates, reports, refusals and verification."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from decimal import Context, Decimal
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import pytest
import pytest_asyncio
import sqlalchemy as sa

from qts_data.contracts import BookedFill, Correction, LedgerEntry, Position, RejectedEntry, Reversal, round_money
from qts_data.errors import InvalidRecord, LedgerConflict, NotFound, OutcomeUnknown
from qts_data.models.views import trading_zone_statements
from qts_data.repositories import Database
from qts_data.repositories.book.booking import half_even, valuation
from qts_data.timescale.ddl import verbatim
from qts_data.writers import FillWriter
from tests.fixtures.factories import FillFactory
from tests.fixtures.waiting import eventually, waits_for_a_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

    from tests.fixtures.fix_proxy import Proxy

MORNING = dt.datetime(2026, 11, 2, 0, 30, tzinfo=dt.UTC)  # 09:30 in Korea
ZERO = Decimal(0)


@pytest_asyncio.fixture
async def book(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


def fill(side: Literal["BUY", "SELL"], qty: str, price: str, **values: Any) -> LedgerEntry:
    return FillFactory.build(side=side, qty=Decimal(qty), price=Decimal(price), **values)


async def record(book: Database, *entries: LedgerEntry) -> list[BookedFill]:
    results = []
    for entry in entries:
        async with book.transaction() as uow:
            results.append(await uow.ledger.record_fill(entry))
    return results


async def verified(book: Database) -> int:
    """The number of ledger entries, after a check that everything stored follows from them."""
    async with book.reader(snapshot=True) as reader:
        found = await reader.positions.verify_positions()
    assert found.mismatches == ()
    return found.entries


def these(*values: object) -> tuple[object, ...]:
    """For comparisons: mypy does not know that a Decimal can equal an int."""
    return values


def held(position: Position) -> tuple[object, ...]:
    return position.qty, position.avg_price, position.realized_pnl


async def test_reduction_realizes_profit_at_average_cost(book: Database) -> None:
    """A sale realizes profit at the average cost. Fees are not part of it: they appear in the daily P&L only."""
    bought, sold = await record(
        book, fill("BUY", "10", "100", fee=Decimal(1)), fill("SELL", "4", "110", fee=Decimal("0.5"))
    )
    assert these(bought.realized_pnl, held(bought.position)) == (0, (10, 100, 0))
    assert these(sold.realized_pnl, held(sold.position)) == (40, (6, 100, 40))
    assert not sold.duplicate
    async with book.reader() as reader:
        (day,) = await reader.pnl.pnl(dt.date(2026, 11, 20))
        stored = await reader.positions.get_position("005930")
    assert (day.realized_pnl, day.fees, day.net_pnl, day.trade_count) == (
        Decimal(40), Decimal("1.5"), Decimal("38.5"), 2,
    )  # fmt: skip
    assert stored == sold.position


async def test_a_flip_through_zero_closes_at_the_price_and_opens_at_it(book: Database) -> None:
    *_, flipped = await record(book, fill("BUY", "6", "100"), fill("SELL", "10", "120"))
    assert these(flipped.realized_pnl, held(flipped.position)) == (120, (-4, 120, 120))


async def test_a_short_is_covered_in_two_parts(book: Database) -> None:
    _, first, second = await record(book, fill("SELL", "10", "50"), fill("BUY", "4", "40"), fill("BUY", "6", "55"))
    assert these(first.realized_pnl, held(first.position)) == (40, (-6, 50, 40))
    assert these(second.realized_pnl, held(second.position)) == (-30, (0, 0, 10))
    assert second.position.cost_basis == 0


async def test_closed_position_after_adds_leaves_no_remainder(book: Database) -> None:
    """Adds move the average price.

    The closed position has a cost of exactly zero, and its profit is the cash flow.
    """
    results = await record(
        book,
        fill("BUY", "3", "0.33333333"),
        fill("BUY", "7", "0.1"),
        fill("SELL", "9.99999999", "0.2"),
        fill("SELL", "0.00000001", "0.2"),
    )
    assert results[1].position.avg_price == Decimal("0.17000000")
    last = results[-1].position
    assert these(last.qty, last.cost_basis, last.avg_price) == (0, 0, 0)
    spent = Decimal("0.99999999") + Decimal("0.7")
    earned = Decimal("2.00000000") + Decimal(0)  # 0.00000001 x 0.2 rounds to nothing
    assert last.realized_pnl == earned - spent


async def test_won_and_tether_stand_side_by_side(book: Database) -> None:
    usdt: dict[str, Any] = {"symbol": "BTCUSDT", "market": "BINANCE", "currency": "USDT", "broker": "binance"}
    await record(
        book,
        fill("BUY", "10", "70000"),
        fill("BUY", "0.5", "60000.01", fee=Decimal("0.0001"), fee_currency="BNB", **usdt),
        fill("SELL", "0.2", "61000.01", fee=Decimal("12.2"), **usdt),
    )
    async with book.reader() as reader:
        metrics = {one.currency: one for one in await reader.pnl.daily_metrics(dt.date(2026, 11, 20))}
        btc = await reader.positions.get_position("BTCUSDT")
    assert sorted(metrics) == ["BNB", "KRW", "USDT"]
    assert (metrics["USDT"].realized_pnl, metrics["USDT"].fees, metrics["BNB"].fees) == (
        Decimal(200), Decimal("12.2"), Decimal("0.0001"),
    )  # fmt: skip
    assert these(metrics["KRW"].net_cash_flow, metrics["KRW"].realized_pnl) == (-700000, 0)
    assert (btc.qty, btc.avg_price, btc.currency) == (Decimal("0.3"), Decimal("60000.01"), "USDT")


async def test_redelivered_fill_changes_nothing_and_is_a_duplicate(book: Database) -> None:
    """A redelivery returns the result of the first booking, also with a fill time that differs by microseconds."""
    first = fill("BUY", "10", "100")
    (booked,) = await record(book, first)
    await record(book, fill("BUY", "1", "90"))
    later = dataclasses.replace(first, timestamp=first.timestamp + dt.timedelta(microseconds=7))
    for again in (first, later):
        (repeated,) = await record(book, again)
        assert repeated.duplicate
        assert (repeated.ledger_id, repeated.realized_pnl, held(repeated.position)) == (
            booked.ledger_id, booked.realized_pnl, held(booked.position),
        )  # fmt: skip
    assert await verified(book) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"qty": Decimal(11), "amount": None},
        {"price": Decimal(101), "amount": None},
        {"side": "SELL"},
        {"symbol": "000660"},
        {"fee": Decimal(1)},
        {"fee_currency": "USD"},
        {"strategy_tag": "grid"},
        {"order_id": "O1"},
    ],
)
async def test_another_content_under_the_same_id_shows_both(book: Database, change: dict[str, Any]) -> None:
    first = fill("BUY", "10", "100")
    await record(book, first)
    other = dataclasses.replace(first, **change)
    with pytest.raises(LedgerConflict, match="another fill has this execution id") as caught:
        await record(book, other)
    assert (caught.value.booked, caught.value.given) == (str(first), str(other))
    assert await verified(book) == 1


async def test_execution_ids_of_two_brokers_or_accounts_do_not_meet(book: Database) -> None:
    results = await record(
        book,
        fill("BUY", "1", "1", execution_id="1"),
        fill("BUY", "1", "1", execution_id="1", broker="other"),
        fill("BUY", "1", "1", execution_id="1", account="second"),
        fill("BUY", "1", "1", execution_id=None, idempotency_key="1"),
        fill("BUY", "1", "1", execution_id=None, idempotency_key="1"),
    )
    assert [result.duplicate for result in results] == [False, False, False, False, True]
    async with book.reader() as reader:
        entry = await reader.ledger.find_entry("test", "main", "key:1")
        accounts = await reader.positions.list_positions()
    assert entry is not None
    assert (entry.entry.execution_id, entry.entry.idempotency_key) == (None, "1")
    assert [these(one.account, one.qty) for one in accounts] == [("main", 3), ("second", 1)]


async def test_a_position_has_one_currency_and_one_market(book: Database) -> None:
    await record(book, fill("BUY", "1", "1"))
    for change, reason in (({"currency": "USD"}, "currency: is 'USD'"), ({"market": "NYSE"}, "market: is 'NYSE'")):
        with pytest.raises(InvalidRecord, match=reason):
            await record(book, fill("BUY", "1", "1", **change))
    assert await verified(book) == 1


async def test_first_fill_in_a_wrong_currency_needs_another_symbol(book: Database) -> None:
    """A reversed first fill leaves its currency to the position. The right fill is booked under another symbol."""
    right = fill("BUY", "1", "1", execution_id="right")
    await record(book, fill("BUY", "1", "1", currency="USD", execution_id="wrong"))
    await reverse(book, bust("x", "wrong"))
    with pytest.raises(InvalidRecord, match="currency: is 'KRW', but main holds 005930 in 'USD'"):
        await record(book, right)
    await record(book, dataclasses.replace(right, symbol="005930.KRX"))
    async with book.reader() as reader:
        (held_now,) = await reader.positions.list_positions(open_only=True)
    assert (held_now.symbol, held_now.currency) == ("005930.KRX", "KRW")
    assert await verified(book) == 3


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("qty", {"qty": ZERO}, "not above zero"),
    ("qty", {"qty": Decimal(-1)}, "not above zero"),
    ("qty", {"qty": Decimal("NaN")}, "finite"),
    ("qty", {"qty": Decimal("Infinity")}, "finite"),
    ("qty", {"qty": Decimal("0.000000001")}, "after the point"),
    ("qty", {"qty": Decimal(10**10)}, "before the point"),
    ("qty", {"qty": 10}, "must be a Decimal"),
    ("price", {"price": 0.1}, "must be a Decimal, is float"),
    ("price", {"price": Decimal("sNaN")}, "finite"),
    ("price", {"price": Decimal("-0.01")}, "below zero"),
    ("fee", {"fee": Decimal("1E-9")}, "after the point"),
    ("side", {"side": "HOLD"}, "BUY or SELL"),
    ("side", {"side": ["BUY"]}, "BUY or SELL"),
    ("timestamp", {"timestamp": dt.datetime(2026, 11, 2)}, "no time zone"),  # noqa: DTZ001
    ("symbol", {"symbol": ""}, "1 to 64"),
    ("symbol", {"symbol": "x" * 65}, "1 to 64"),
    ("symbol", {"symbol": "a\0b"}, "NUL"),
    ("currency", {"currency": ""}, "1 to 64"),
    ("amount", {"amount": Decimal("999.99999999")}, "qty x price is 1000"),
    ("amount", {"amount": 1000.0}, "qty x price is 1000"),
    ("amount", {"amount": Decimal("NaN")}, "qty x price is 1000"),
    ("amount", {"amount": Decimal("sNaN")}, "qty x price is 1000"),
    ("amount", {"qty": Decimal(10**9), "price": Decimal(10**9)}, "before the point"),
    ("execution_id", {"execution_id": None}, "exactly one|one of them"),
    ("execution_id", {"idempotency_key": "k"}, "one of them"),
    ("execution_id", {"execution_id": "key:1"}, "marks idempotency keys"),
    ("execution_id", {"execution_id": ""}, "1 to 256"),
    ("strategy_tag", {"strategy_tag": ""}, "1 to 256"),
]


@pytest.mark.parametrize(("field", "change", "reason"), BAD, ids=[f"{name}-{n}" for n, (name, *_) in enumerate(BAD)])
def test_fill_beyond_the_digits_of_a_column_is_refused(field: str, change: dict[str, Any], reason: str) -> None:
    """A fill that the ledger cannot hold exactly is refused when the record is made, with its field."""
    with pytest.raises(InvalidRecord, match=reason) as caught:
        FillFactory.build(**change)
    assert caught.value.field == field


async def test_sql_in_a_symbol_is_a_symbol(book: Database) -> None:
    names = ["'); DROP TABLE t_ledger; --", '{"a",NULL}', "\\", "NULL", "한국전력", "$1", "%s"]
    async with book.transaction() as uow:
        await uow.ledger.record_fills([fill("BUY", "1", "1", symbol=name, strategy_tag=name) for name in names])
    async with book.reader() as reader:
        assert {one.symbol async for one in reader.positions.stream()} == set(names)
        entries = await reader.ledger.list_entries()
    assert [one.entry.strategy_tag for one in entries] == names
    assert await verified(book) == len(names)


async def test_a_position_that_would_not_fit_its_columns_is_refused(book: Database) -> None:
    big = Decimal(9999999999)
    await record(book, fill("BUY", str(big), "1"))
    with pytest.raises(InvalidRecord, match=r"position qty: 10000000000.* digits before the point"):
        await record(book, fill("BUY", "1", "1"))
    assert await verified(book) == 1


async def test_many_fills_are_booked_as_one_by_one(book: Database) -> None:
    entries = [
        fill("BUY" if n % 3 else "SELL", str(1 + n % 7), f"{100 + n % 5}.{n % 10}", symbol=f"S{n % 4}")
        for n in range(60)
    ]
    twins = [dataclasses.replace(one, account="twin") for one in entries]
    single = await record(book, *entries)
    async with book.transaction() as uow:
        batch = await uow.ledger.record_fills(twins)
    assert [(one.realized_pnl, held(one.position)) for one in single] == [
        (one.realized_pnl, held(one.position)) for one in batch
    ]
    assert [one.ledger_id for one in batch] == sorted(one.ledger_id for one in batch)
    assert await verified(book) == 120


async def test_one_bad_fill_fails_the_batch_with_its_row(book: Database) -> None:
    good = fill("BUY", "1", "1")
    bad_fields = dataclasses.asdict(good) | {"qty": Decimal(-1), "execution_id": "B", "amount": None}
    await record(book, fill("BUY", "2", "2", execution_id="taken"))
    batches: list[tuple[Any, str]] = [
        ([good, bad_fields], "row 2: qty: -1 is not above zero"),
        ([good, {"symbol": "x"}], "row 2: fields: missing"),
        ([good, fill("BUY", "1", "1", currency="USD")], "row 2: currency"),
        ([good, fill("BUY", "9", "9", execution_id="taken")], "row 2: another fill has this execution id"),
        ([good, dataclasses.replace(good, fee=Decimal(3))], "row 2: another fill"),
    ]
    for batch, message in batches:
        with pytest.raises((InvalidRecord, LedgerConflict), match=message) as caught:
            async with book.transaction() as uow:
                await uow.ledger.record_fills(batch)
        assert getattr(caught.value, "row", None) == 2
    assert await verified(book) == 1


async def test_a_batch_can_book_the_good_ones_and_return_the_bad(book: Database) -> None:
    good = [fill("BUY", "1", "1") for _ in range(3)]
    usd = fill("BUY", "1", "1", currency="USD")
    wrong = {"symbol": "005930"}
    async with book.transaction() as uow:
        results = await uow.ledger.record_fills([wrong, good[0], usd, good[1], good[0], good[2]], on_error="collect")
    assert [type(one) for one in results] == [RejectedEntry, BookedFill, RejectedEntry, *[BookedFill] * 3]
    rejected = [one for one in results if isinstance(one, RejectedEntry)]
    assert [(one.row, one.entry) for one in rejected] == [(1, wrong), (3, usd)]
    assert "currency" in rejected[1].reason
    booked = [one for one in results if isinstance(one, BookedFill)]
    assert [one.duplicate for one in booked] == [False, False, True, False]
    async with book.transaction() as uow:
        assert await uow.ledger.record_fills([]) == []
        assert len(await uow.ledger.record_fills([wrong], on_error="collect")) == 1
    assert await verified(book) == 3


async def test_nothing_of_a_batch_stays_when_its_transaction_fails(book: Database) -> None:
    with pytest.raises(RuntimeError, match="mine"):
        async with book.transaction() as uow:
            await uow.ledger.record_fills([fill("BUY", "1", "1")])
            raise RuntimeError("mine")
    assert await verified(book) == 0


def bust(execution_id: str, reverses: str) -> Reversal:
    return Reversal(timestamp=MORNING, broker="test", execution_id=execution_id, reverses=reverses)


async def reverse(book: Database, report: Reversal | Correction) -> BookedFill | None:
    async with book.transaction() as uow:
        if isinstance(report, Reversal):
            return await uow.ledger.reverse_fill(report)
        return await uow.ledger.correct_fill(report)


async def test_a_busted_fill_is_as_if_it_had_never_been(book: Database) -> None:
    await record(
        book,
        fill("BUY", "10", "100", execution_id="a", fee=Decimal(1)),
        fill("BUY", "10", "200", execution_id="b"),
        fill("SELL", "5", "300", execution_id="c"),  # realizes 750 at an average of 150
    )
    result = await reverse(book, bust("x", "b"))
    assert result is not None
    assert these(result.realized_pnl, held(result.position)) == (250, (5, 100, 1000))
    again = await reverse(book, bust("x", "b"))
    assert again is not None
    assert (again.duplicate, again.ledger_id) == (True, result.ledger_id)
    async with book.reader() as reader:
        entry = await reader.ledger.get_entry(result.ledger_id)
        original = await reader.ledger.find_entry("test", "main", "b")
        (day,) = await reader.pnl.pnl(dt.date(2026, 11, 20))
        (other_day,) = await reader.pnl.pnl(dt.date(2026, 11, 2))
    assert original is not None
    assert these(entry.reverses_id, entry.entry.side, entry.entry.qty) == (original.id, "SELL", 10)
    assert (day.trade_count, other_day.trade_count) == (3, -1)
    assert day.realized_pnl + other_day.realized_pnl == 1000
    assert await verified(book) == 4


async def test_the_fee_of_a_busted_fill_comes_back(book: Database) -> None:
    await record(book, fill("BUY", "1", "100", execution_id="a", fee=Decimal(3), timestamp=MORNING))
    await reverse(book, bust("x", "a"))
    async with book.reader() as reader:
        (day,) = await reader.pnl.pnl(dt.date(2026, 11, 2))
    assert these(day.fees, day.net_cash_flow, day.trade_count, day.net_pnl) == (0, 0, 0, 0)


async def test_fill_is_reversed_once(book: Database) -> None:
    await record(book, fill("BUY", "10", "100", execution_id="a"))
    await reverse(book, bust("x", "a"))
    refused: list[tuple[Reversal | Correction, str]] = [
        (bust("y", "a"), "another report reversed this fill"),
        (bust("z", "x"), "is itself a reversal"),
        (Correction(entry=fill("BUY", "9", "100", execution_id="w"), corrects="a"), "another report"),
    ]
    for report, message in refused:
        with pytest.raises(LedgerConflict, match=message):
            await reverse(book, report)
    with pytest.raises(LedgerConflict, match="booked as a reversal"):
        await record(book, fill("BUY", "1", "1", execution_id="x"))
    assert await verified(book) == 2


async def test_a_corrected_fill_is_as_if_it_had_always_been_right(book: Database) -> None:
    await record(book, fill("BUY", "10", "100", execution_id="a"), fill("SELL", "10", "130", execution_id="b"))
    right = Correction(entry=fill("BUY", "10", "120", execution_id="a2"), corrects="a")
    result = await reverse(book, right)
    assert result is not None
    assert held(result.position) == (0, 0, 100)
    (undone,) = result.applied
    assert undone.realized_pnl + result.realized_pnl == -200
    assert held(undone.position) == (-10, 130, 0)
    again = await reverse(book, right)
    assert again is not None
    assert (again.duplicate, again.ledger_id, [one.ledger_id for one in again.applied]) == (
        True, result.ledger_id, [undone.ledger_id],
    )  # fmt: skip
    # A correction can itself be corrected, and busted.
    await reverse(book, Correction(entry=fill("BUY", "10", "125", execution_id="a3"), corrects="a2"))
    assert held((await record(book, fill("BUY", "1", "1")))[0].position) == (1, 1, 50)
    last = await reverse(book, bust("x", "a3"))
    assert last is not None
    assert held(last.position) == (-9, 130, 129)
    assert await verified(book) == 8


async def test_a_correction_stays_with_its_instrument(book: Database) -> None:
    await record(book, fill("BUY", "10", "100", execution_id="a"))
    for change, field in (({"symbol": "000660"}, "symbol"), ({"currency": "USD"}, "currency")):
        with pytest.raises(InvalidRecord) as caught:
            await reverse(book, Correction(entry=fill("BUY", "9", "100", **change), corrects="a"))
        assert caught.value.field == field


async def test_reports_that_come_before_their_fill_wait_for_it(book: Database) -> None:
    early: list[Reversal | Correction] = [
        Correction(entry=fill("BUY", "10", "120", execution_id="a2", fee=Decimal(2)), corrects="a"),
        bust("x", "a2"),
        bust("y", "b"),
    ]
    for report in (*early, *early):
        assert await reverse(book, report) is None
    async with book.reader() as reader:
        assert await reader.ledger.list_pending_reports() == early
    with pytest.raises(LedgerConflict, match="another report waits"):
        await reverse(book, bust("y", "c"))
    a, b = await record(book, fill("BUY", "10", "100", execution_id="a"), fill("BUY", "7", "100", execution_id="b"))
    assert [one.position.qty for one in a.applied] == [10, 0]
    assert [one.position.qty for one in b.applied] == [0]
    async with book.reader() as reader:
        assert await reader.ledger.list_pending_reports() == []
        position = await reader.positions.get_position("005930")
    assert held(position) == (0, 0, 0)
    assert await verified(book) == 2 + 2 + 1 + 1


async def test_a_report_that_overtook_another_report_waits_for_it(book: Database) -> None:
    assert await reverse(book, bust("x", "a2")) is None
    await record(book, fill("BUY", "10", "100", execution_id="a"))
    corrected = await reverse(book, Correction(entry=fill("BUY", "10", "120", execution_id="a2"), corrects="a"))
    assert corrected is not None
    assert [one.position.qty for one in corrected.applied] == [0, 0]
    async with book.reader() as reader:
        assert await reader.ledger.list_pending_reports() == []
        assert held(await reader.positions.get_position("005930")) == (0, 0, 0)
    assert await verified(book) == 4


async def test_report_that_contradicts_its_fill_stays_pending(book: Database, caplog: pytest.LogCaptureFixture) -> None:
    """An early correction in another currency cannot be booked.

    Its fill is booked, and the report stays pending.
    """
    usd = Correction(entry=fill("BUY", "10", "120", execution_id="a2", currency="USD"), corrects="a")
    assert await reverse(book, usd) is None
    (booked,) = await record(book, fill("BUY", "10", "100", execution_id="a"))
    assert these(booked.position.qty, booked.applied) == (10, ())
    assert "cannot be booked" in caplog.text
    async with book.reader() as reader:
        assert await reader.ledger.list_pending_reports() == [usd]


async def test_report_whose_id_is_taken_does_not_stop_its_fill(
    book: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """An early report whose execution id another entry took is logged and not applied. Its fill is booked."""
    early: list[Reversal | Correction] = [
        bust("x", "a"), Correction(entry=fill("BUY", "1", "1", execution_id="c"), corrects="b"),
    ]  # fmt: skip
    for report in early:
        assert await reverse(book, report) is None
    # A history without reports has them as fills.
    await record(book, fill("BUY", "1", "1", execution_id="x"), fill("BUY", "1", "1", execution_id="c"))
    booked = await record(book, fill("BUY", "1", "1", execution_id="a"), fill("BUY", "1", "1", execution_id="b"))
    assert [one.applied for one in booked] == [(), ()]
    assert caplog.text.count("its execution id is that of another entry") == 2
    async with FillWriter(book) as writer:
        group = [fill("BUY", "1", "1"), fill("BUY", "1", "1", execution_id="a"), fill("BUY", "1", "1")]
        found = await asyncio.gather(*map(writer.record_fill, group))
    assert [one.duplicate for one in found] == [False, True, False]
    with pytest.raises(LedgerConflict, match="its execution id is that of another entry"):
        await reverse(book, bust("x", "b"))
    # A bust may have the id that a correction gives to its reversal.
    await reverse(book, bust("d/reversal", "b"))
    with pytest.raises(LedgerConflict, match="a reversal of this fill is booked"):
        await reverse(book, Correction(entry=fill("BUY", "2", "1", execution_id="d"), corrects="b"))
    assert await verified(book) == 7


async def test_id_booked_by_a_concurrent_transaction_conflicts(book: Database) -> None:
    """Another transaction books the same execution id between our lookup and our insert."""

    async def second() -> BookedFill:
        return await book.run(lambda uow: uow.ledger.record_fill(fill("BUY", "1", "1", symbol="B", execution_id="x")))

    async with book.transaction() as uow:
        await uow.ledger.record_fill(fill("BUY", "1", "1", symbol="A", execution_id="x"))
        waiting = asyncio.create_task(second())
        await eventually(lambda: waits_for_a_transaction(book))
    with pytest.raises(LedgerConflict, match="another fill has this execution id"):
        await waiting


async def test_tasks_of_one_transaction_book_one_after_another(book: Database) -> None:
    async with book.transaction() as uow:
        results = await asyncio.gather(
            *(uow.ledger.record_fill(fill("BUY", "1", "100")) for _ in range(4)),
            uow.ledger.record_fills([fill("BUY", "1", "100")]),
            uow.ledger.record_fill(fill("BUY", "1", "100")),
        )
    assert isinstance(results[-1], BookedFill)
    assert results[-1].position.qty == 6
    assert await verified(book) == 6


async def test_positions_changed_by_no_booking_are_notified(book: Database) -> None:
    notified: list[tuple[str, str]] = []
    book.on_changed(lambda account, symbol: notified.append((account, symbol)))
    await record(book, fill("BUY", "1", "100", symbol="A"), fill("BUY", "1", "100", symbol="B"))
    assert notified == []
    async with book.transaction() as uow:
        await uow.positions.mark("A", Decimal(1), MORNING)
        await uow.connection.execute(sa.text("UPDATE positions SET qty = 7 WHERE symbol = 'B'"))
        assert notified == []
    assert notified == [("main", "A")]
    async with book.transaction() as uow:
        await uow.positions.restore_positions()
    assert notified == [("main", "A"), ("main", "B")]


@pytest.mark.parametrize("change", [{"execution_id": "same"}, {"execution_id": "key:1"}, {"reverses": ""}])
def test_a_bust_that_cannot_be_is_not_made(change: dict[str, str]) -> None:
    fields: dict[str, str] = {"execution_id": "x", "reverses": "same"}
    with pytest.raises(InvalidRecord):
        Reversal(timestamp=MORNING, broker="test", **fields | change)


async def test_ids_of_the_greatest_length_can_be_reversed(book: Database) -> None:
    """A reversal and a correction find fills whose ids and keys have the greatest length that a fill accepts."""
    longest, key = "e" * 256, "k" * 256
    await record(
        book, fill("BUY", "1", "1", execution_id=longest), fill("BUY", "1", "1", execution_id=None, idempotency_key=key)
    )
    for name, taken_back in (("x" * 256, longest), ("y", f"key:{key}")):
        assert await reverse(book, bust(name, taken_back)) is not None
    await record(book, fill("BUY", "1", "1", execution_id=None, idempotency_key="m" * 256))
    again = fill("BUY", "2", "1", execution_id=None, idempotency_key="n" * 247)
    assert await reverse(book, Correction(entry=again, corrects=f"key:{'m' * 256}")) is not None
    again = fill("BUY", "3", "1", execution_id="f" * 247)
    assert await reverse(book, Correction(entry=again, corrects=f"key:{'n' * 247}")) is not None
    async with book.reader() as reader:
        assert (await reader.positions.get_position("005930")).qty == 3
    assert await verified(book) == 9
    for field, ids, corrects in (
        ("execution_id", {"execution_id": "f" * 248}, "a"),
        ("idempotency_key", {"execution_id": None, "idempotency_key": "f" * 248}, "a"),
        ("corrects", {}, "c" * 257),
        ("corrects", {}, f"key:{'c' * 257}"),
    ):
        with pytest.raises(InvalidRecord) as caught:
            Correction(entry=fill("BUY", "1", "1", **ids), corrects=corrects)
        assert caught.value.field == field
    with pytest.raises(InvalidRecord, match="reverses: must have 1 to 256"):
        bust("x", "r" * 257)


async def test_positions_are_valued_at_a_price_that_is_not_older(book: Database) -> None:
    await record(
        book,
        fill("BUY", "3", "100"),
        fill("SELL", "2", "100", account="short"),
        fill("BUY", "1", "1", symbol="other"),
    )
    noon = MORNING + dt.timedelta(hours=3)
    async with book.transaction() as uow:
        long, short = await uow.positions.mark("005930", Decimal("110.5"), noon, equity=Decimal(10000000000000))
        assert await uow.positions.mark("005930", Decimal(1), MORNING) == []
        (alone,) = await uow.positions.mark("005930", Decimal(90), noon, account="short")
        with pytest.raises(InvalidRecord, match="equity"):
            await uow.positions.mark("005930", Decimal(1), noon, equity=ZERO)
    assert (long.exposure_value, long.unrealized_pnl) == (Decimal("331.5"), Decimal("31.5"))
    assert these(short.exposure_value, short.unrealized_pnl) == (-221, -21)
    assert these(alone.exposure_value, alone.unrealized_pnl, alone.exposure_pct) == (-180, 20, None)
    # A fill changes the quantity, and the valuation follows at the last price.
    (more,) = await record(book, fill("BUY", "1", "120"))
    assert these(more.position.exposure_value, more.position.unrealized_pnl, more.position.marked_at) == (442, 22, noon)


async def test_a_valuation_rounds_as_the_book_does(book: Database) -> None:
    await record(book, fill("BUY", "0.5", "1"), fill("SELL", "0.5", "1", account="short"))
    async with book.transaction() as uow:
        for price, value in (("0.00000001", "0"), ("0.00000003", "0.00000002"), ("0.00000005", "0.00000002")):
            long, short = await uow.positions.mark("005930", Decimal(price), MORNING)
            assert (long.exposure_value, short.exposure_value) == (Decimal(value), -Decimal(value))


async def test_a_valuation_is_exact_for_large_values(book: Database) -> None:
    """Half a unit of the last place is a tie, also after thirteen digits."""
    worth = Decimal("3000001500000.03000002")
    await record(book, fill("BUY", "1000000.5", "1"))
    async with book.transaction() as uow:
        (marked,) = await uow.positions.mark("005930", Decimal("3000000.00000003"), MORNING)
    assert (marked.exposure_value, marked.unrealized_pnl) == (worth, worth - Decimal("1000000.5"))
    async with FillWriter(book) as writer:
        for count in (1, 2, 3):  # each of the last ones takes one round trip, by another statement than the first
            booked = await writer.record_fill(fill("BUY", "2", "0"))
            value = worth + count * 2 * Decimal("3000000.00000003")
            assert booked.position.exposure_value == value
            assert booked.position.unrealized_pnl == value - Decimal("1000000.5")


async def test_server_rounds_as_the_book_does_at_any_size(book: Database) -> None:
    random = Random(20261120)
    exact = Context(prec=60)

    def number(digits: int) -> Decimal:
        return exact.scaleb(Decimal(random.randrange(10**digits)), -8)

    pairs = [(number(18), number(random.randrange(1, 19))) for _ in range(500)]
    # Half a share at a price that ends in an odd digit is a tie.
    pairs += [(number(random.randrange(19)).to_integral_value() + Decimal("0.5"), number(18)) for _ in range(500)]
    pairs += [(-qty, price) for qty, price in pairs]
    statement = sa.text(f"SELECT {half_even('(q * p)')} FROM unnest(:q ::numeric[], :p ::numeric[]) AS u(q, p)")
    async with book.reader() as reader:
        found = await reader.connection.scalars(statement, {"q": [q for q, _ in pairs], "p": [p for _, p in pairs]})
        assert found.all() == [round_money(exact.multiply(q, p)) for q, p in pairs]


@pytest.mark.parametrize(
    ("worth", "cost", "fits"),
    [
        ("9999999999999999.9999999949", "0", True),
        ("-9999999999999999.9999999949", "0", True),
        ("9999999999999999.999999995", "0", False),
        ("9999999999999999.99999999", "-0.00000001", False),
        ("9999999999999999.99999999", "0.00000001", True),
        ("-9999999999999999.99999999", "0.00000001", False),
    ],
)
async def test_a_valuation_is_left_out_exactly_where_it_does_not_fit(
    book: Database, worth: str, cost: str, fits: bool
) -> None:
    columns = (f"CAST({value} AS numeric(24, 8))" for value in valuation(f"({worth})", f"({cost})", "1e15"))
    async with book.reader() as reader:
        found = (await reader.connection.execute(sa.text(f"SELECT {', '.join(columns)}"))).one()
    assert [value is not None for value in found] == [fits, fits, fits]


async def test_valuation_that_would_not_fit_changes_nothing(book: Database) -> None:
    """A valuation beyond its columns is refused with its field.

    The transaction goes on and no position is marked.
    """
    await record(book, fill("BUY", "5000000000", "1"), fill("BUY", "1", "1", account="small"))
    await record(book, fill("SELL", "1", str(9 * 10**9), account="short"))
    async with book.transaction() as uow:
        for field, price, equity in (
            ("exposure_value", Decimal(9 * 10**9), None),
            ("exposure_pct", Decimal(1), Decimal("0.00000001")),
        ):
            with pytest.raises(InvalidRecord, match="digits before the point") as caught:
                await uow.positions.mark("005930", price, MORNING, equity=equity)
            assert caught.value.field == field
        # The transaction goes on.
        assert [one.mark_price for one in await uow.positions.list_positions()] == [None, None, None]
        await uow.positions.mark("005930", Decimal(1), MORNING)
    async with book.reader() as reader:
        assert [one.exposure_value for one in await reader.positions.list_positions()] == [5000000000, -1, 1]


async def test_positions_in_two_currencies_need_an_account_to_mark(book: Database) -> None:
    """`mark` refuses one price for positions of a symbol in several currencies, and accepts it with an account."""
    await record(book, fill("BUY", "1", "1"), fill("BUY", "1", "1", account="abroad", currency="USD"))
    async with book.transaction() as uow:
        with pytest.raises(InvalidRecord, match=r"account: .* held in KRW, USD"):
            await uow.positions.mark("005930", Decimal(1), MORNING)
        (marked,) = await uow.positions.mark("005930", Decimal(2), MORNING, account="abroad")
        assert these(marked.currency, marked.exposure_value) == ("USD", 2)
        assert (await uow.positions.get_position("005930")).mark_price is None


async def test_no_valuation_stops_a_fill(book: Database) -> None:
    price = Decimal(9 * 10**9)
    await record(book, fill("BUY", "1", "1"))
    async with book.transaction() as uow:
        await uow.positions.mark("005930", price, MORNING)
    (huge,) = await record(book, fill("BUY", "5000000000", "0.01"))
    async with FillWriter(book) as writer:
        alone = [await writer.record_fill(fill("BUY", "1", "0.01")) for _ in range(3)]
    for position in (huge.position, *(one.position for one in alone)):
        assert (position.mark_price, position.marked_at) == (price, MORNING)
        assert (position.exposure_value, position.unrealized_pnl) == (None, None)
    async with book.reader() as reader:
        assert await reader.positions.get_position("005930") == alone[-1].position
    # A valuation that fits again is stored again.
    (back,) = await record(book, fill("SELL", "4998888893.88888889", "0.01"))
    assert back.position.exposure_value == Decimal("1111110.11111111") * price
    assert await verified(book) == 6


async def test_positions_are_found_and_listed(book: Database) -> None:
    await record(
        book,
        fill("BUY", "1", "1", symbol="a", strategy_tag="grid"),
        fill("BUY", "1", "1", symbol="b", market="NXT"),
        fill("SELL", "1", "1", symbol="a", account="z"),
        fill("BUY", "1", "1", symbol="a", account="z", strategy_tag="grid"),
    )
    async with book.reader() as reader:
        ask = reader.positions

        def names(found: list[Position]) -> list[str]:
            return [f"{one.account}/{one.symbol}" for one in found]

        assert names(await ask.list_positions()) == ["main/a", "main/b", "z/a"]
        assert names(await ask.list_positions(limit=1, after=("main", "a"))) == ["main/b"]
        assert names(await ask.list_positions(account="z")) == ["z/a"]
        assert names(await ask.list_positions(market="NXT")) == ["main/b"]
        assert names(await ask.list_positions(strategy_tag="grid")) == ["main/a", "z/a"]
        assert names(await ask.list_positions(open_only=True)) == ["main/a", "main/b"]
        assert names([one async for one in ask.stream(account="main")]) == ["main/a", "main/b"]
        assert await ask.find_position("c") is None
        with pytest.raises(NotFound, match="main has no position in c"):
            await ask.get_position("c")
        assert names(await ask.list_by_key([("z", "a"), ("main", "b"), ("main", "c")])) == ["main/b", "z/a"]
        assert await ask.list_by_key([]) == []


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
async def test_question_with_impossible_text_names_its_field(book: Database, text: str) -> None:
    async with book.transaction() as uow:
        ask = uow.positions
        for field, question in (
            ("symbol", ask.find_position(text)),
            ("account", ask.find_position("a", text)),
            ("symbol", ask.mark(text, Decimal(1), MORNING)),
            ("account", ask.mark("a", Decimal(1), MORNING, account=text)),
            ("symbol", ask.list_positions(symbol=text)),
            ("market", ask.list_positions(market=text)),
            ("strategy_tag", ask.list_positions(strategy_tag=text)),
        ):
            with pytest.raises(InvalidRecord) as caught:
                await question
            assert caught.value.field == field
        assert await ask.find_position("a") is None


async def test_entries_are_listed_by_range_and_page(book: Database) -> None:
    minutes = [MORNING + dt.timedelta(minutes=n) for n in range(4)]
    await record(
        book,
        *(
            fill("BUY", "1", "1", timestamp=minute, symbol=f"S{n % 2}", strategy_tag="x")
            for n, minute in enumerate(minutes)
        ),
    )
    async with book.reader() as reader:
        ask = reader.ledger
        everything = await ask.list_entries()
        assert [one.entry.timestamp for one in everything] == minutes
        assert [one async for one in ask.stream_entries()] == everything
        assert await ask.list_entries(after_id=everything[1].id, limit=1) == everything[2:3]
        assert await ask.list_entries(start=minutes[1], end=minutes[3]) == everything[1:3]
        assert await ask.list_entries(symbol="S1", account="main", strategy_tag="x") == everything[1::2]
        assert await ask.list_entries(account="absent") == []
        with pytest.raises(InvalidRecord, match="start"):
            await ask.list_entries(start=dt.datetime(2026, 1, 1))  # noqa: DTZ001
        with pytest.raises(NotFound, match="no entry 0"):
            await ask.get_entry(0)


async def test_the_book_of_a_past_instant_is_rebuilt(book: Database) -> None:
    one, two = (
        fill("BUY", "10", "100", timestamp=MORNING),
        fill("SELL", "4", "110", timestamp=MORNING - dt.timedelta(hours=1)),  # it comes late
    )
    first, second = await record(book, one, two)
    between = first.position.updated_at

    def alone(found: list[Position]) -> tuple[object, ...]:
        (position,) = found
        return held(position)

    async with book.reader(snapshot=True) as reader:
        rebuild = reader.positions.rebuild_positions
        assert alone(await rebuild()) == held(second.position)
        assert alone(await rebuild(MORNING - dt.timedelta(minutes=30))) == (-4, 110, 0)
        assert alone(await rebuild(between, by="recorded_at")) == (10, 100, 0)
        assert await rebuild(MORNING - dt.timedelta(days=1)) == []
        with pytest.raises(InvalidRecord, match="as_of"):
            await rebuild(dt.datetime(2026, 1, 1))  # noqa: DTZ001


async def test_a_past_instant_between_corrections_counts_a_trade_once(book: Database) -> None:
    def at(hour: int) -> dt.datetime:
        return dt.datetime(2026, 11, 2, hour, tzinfo=dt.UTC)

    await record(book, fill("BUY", "10", "100", execution_id="a", timestamp=at(1)))
    await reverse(book, Correction(entry=fill("BUY", "11", "100", execution_id="b", timestamp=at(8)), corrects="a"))
    await reverse(book, Correction(entry=fill("BUY", "12", "100", execution_id="c", timestamp=at(1)), corrects="b"))
    # A trade whose time was corrected twice.
    await record(book, fill("BUY", "1", "5", symbol="late", execution_id="d", timestamp=at(9)))
    for name, corrects, hour in (("e", "d", 8), ("f", "e", 2)):
        right = fill("BUY", "2", "5", symbol="late", execution_id=name, timestamp=at(hour))
        await reverse(book, Correction(entry=right, corrects=corrects))

    async with book.reader(snapshot=True) as reader:

        async def quantities(hour: int) -> list[tuple[str, Decimal]]:
            return [(one.symbol, one.qty) for one in await reader.positions.rebuild_positions(at(hour))]

        assert await quantities(0) == []
        assert await quantities(4) == [("005930", Decimal(12)), ("late", Decimal(2))]
        assert await quantities(9) == [("005930", Decimal(12)), ("late", Decimal(2))]
    await reverse(book, bust("x", "c"))  # in the night before
    async with book.reader(snapshot=True) as reader:
        assert [one.qty for one in await reader.positions.rebuild_positions(at(4))] == [0, 2]
    assert await verified(book) == 11


async def test_a_book_that_was_tampered_with_is_found_and_put_right(book: Database) -> None:
    await record(book, *(fill("BUY", "1", "100", symbol=name) for name in "abcd"))
    async with book.transaction() as uow:
        for statement in (
            "UPDATE positions SET qty = qty + 0.00000001 WHERE symbol = 'a'",
            "UPDATE positions SET market = 'NXT' WHERE symbol = 'b'",
            "DELETE FROM positions WHERE symbol = 'c'",
            "INSERT INTO positions (symbol, market, currency, qty, avg_price) VALUES ('ghost', 'KRX', 'KRW', 5, 1)",
        ):
            await uow.connection.exec_driver_sql(statement)
    async with book.reader(snapshot=True) as reader:
        found = await reader.positions.verify_positions()
    wrong = [(one.symbol, one.field, one.stored, one.computed) for one in found.mismatches]
    assert wrong == [
        ("a", "qty", "1.00000001", "1.00000000"),
        ("b", "market", "NXT", "KRX"),
        ("c", "position", "none", "1.00000000"),
        ("ghost", "position", "5.00000000", "none"),
    ]
    async with book.transaction() as uow:
        assert await uow.positions.restore_positions() == found.mismatches
    assert await verified(book) == 4
    async with book.reader() as reader:
        assert [one.symbol async for one in reader.positions.stream()] == list("abcd")


async def test_entry_written_past_the_package_is_found(book: Database) -> None:
    (booked,) = await record(book, fill("BUY", "1", "100"))
    copied = (
        "INSERT INTO t_ledger (timestamp, symbol, market, side, qty, price, amount, currency, fee_currency, broker, "
        "execution_id, position_qty, position_avg_price, position_cost_basis, position_realized_pnl) "
        "VALUES (now(), '005930', '{}', 'SELL', 1, 101, 101, 'KRW', 'KRW', 'hand', '{}', 0, 0, 0, 0)"
    )
    async with book.transaction() as uow:
        await uow.connection.exec_driver_sql(copied.format("KRX", "1"))
        await uow.connection.exec_driver_sql(copied.format("", "2"))
    async with book.reader(snapshot=True) as reader:
        found = await reader.positions.verify_positions()
    fields = {(one.ledger_id and one.ledger_id - booked.ledger_id, one.field) for one in found.mismatches}
    assert {(1, "realized_pnl"), (1, "position_realized_pnl"), (2, "market"), (None, "qty")} <= fields
    async with book.reader(snapshot=True) as reader:
        with pytest.raises(InvalidRecord, match="market"):
            await reader.positions.rebuild_positions()
    async with book.transaction() as uow:
        assert await uow.positions.restore_positions() == found.mismatches
    async with book.reader(snapshot=True) as reader:
        rest = await reader.positions.verify_positions()
        position = await reader.positions.get_position("005930")
    assert these(position.qty, position.realized_pnl) == (0, 1)
    assert all(one.ledger_id is not None for one in rest.mismatches)


async def test_days_are_days_of_the_trading_zone(book: Database) -> None:
    evening = dt.datetime(2026, 11, 2, 15, 30, tzinfo=dt.UTC)  # half past midnight of the 3rd in Korea
    await record(book, fill("BUY", "1", "100", timestamp=evening, strategy_tag="night"))
    async with book.reader() as reader:
        assert await reader.pnl.pnl(dt.date(2026, 11, 2)) == []
        assert len(await reader.pnl.pnl(dt.date(2026, 11, 3), symbol="005930", currency="KRW", account="main")) == 1
        assert await reader.pnl.pnl(dt.date(2026, 11, 3), symbol="x") == []
        (strategy,) = await reader.pnl.strategy_performance(dt.date(2026, 11, 1), until=dt.date(2026, 11, 30))
        (hour,) = await reader.pnl.hourly_pnl(evening - dt.timedelta(hours=1), evening)
        assert await reader.pnl.hourly_pnl(evening, evening + dt.timedelta(hours=1)) == []
        with pytest.raises(InvalidRecord, match="until"):
            await reader.pnl.pnl(dt.date(2026, 11, 3), until=dt.date(2026, 11, 2))
        with pytest.raises(InvalidRecord, match="day: must be a date, is datetime"):
            await reader.pnl.pnl(evening)
        with pytest.raises(InvalidRecord, match="until: must be a date, is datetime"):
            await reader.pnl.daily_metrics(dt.date(2026, 11, 3), until=evening)
    assert these(strategy.strategy_tag, strategy.notional, strategy.win_count) == ("night", 100, 0)
    assert hour.hour == evening.replace(minute=0)
    async with book.transaction() as uow:
        for statement in trading_zone_statements("UTC", replace=True):
            await uow.connection.execute(verbatim(statement))
        assert len(await uow.pnl.pnl(dt.date(2026, 11, 2))) == 1


async def test_reversed_win_counts_no_more(book: Database) -> None:
    day = {"timestamp": MORNING}
    await record(
        book,
        fill("BUY", "10", "100", execution_id="a", **day),
        fill("SELL", "5", "110", execution_id="win", **day),
        fill("SELL", "5", "90", execution_id="loss", **day),
    )
    async with book.reader() as reader:
        (before,) = await reader.pnl.daily_metrics(dt.date(2026, 11, 2))
    await reverse(book, bust("x", "win"))
    await reverse(book, bust("y", "loss"))
    async with book.reader() as reader:
        (after,) = await reader.pnl.daily_metrics(dt.date(2026, 11, 2))
    assert these(before.win_count, before.trade_count, before.realized_pnl) == (1, 3, 0)
    assert these(after.win_count, after.trade_count, after.realized_pnl, after.notional) == (0, 1, 0, 1000)


async def test_a_correction_that_realizes_a_profit_is_a_win_of_its_own(book: Database) -> None:
    day = {"timestamp": MORNING}
    await record(book, fill("BUY", "10", "100", execution_id="a", **day), fill("SELL", "10", "110", **day))
    await reverse(book, Correction(entry=fill("BUY", "10", "90", **day), corrects="a"))
    async with book.reader() as reader:
        (metrics,) = await reader.pnl.daily_metrics(dt.date(2026, 11, 2))
    assert these(metrics.win_count, metrics.trade_count, metrics.realized_pnl) == (2, 2, 200)


async def test_a_fill_takes_three_round_trips(proxy: Proxy) -> None:
    async with Database(proxy.url) as database:
        await record(database, fill("BUY", "1", "1"))
        before = proxy.round_trips
        await record(database, fill("BUY", "1", "1"))
        assert proxy.round_trips - before == 3
        async with database.transaction() as uow:
            before = proxy.round_trips
            await uow.ledger.record_fills([fill("BUY", "1", "1") for _ in range(50)])
            assert proxy.round_trips - before == 2
            before = proxy.round_trips
            # Look, begin COPY, end COPY, positions.
            await uow.ledger.record_fills([fill("BUY", "1", "1") for _ in range(500)])
            assert proxy.round_trips - before == 4
            seen: list[str] = []
            sa.event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
            await uow.ledger.record_fill(fill("BUY", "1", "1"))
            assert seen == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_fill_of_unknown_outcome_may_be_sent_again(proxy: Proxy, when: Literal["before", "after"]) -> None:
    entry = fill("BUY", "10", "100")
    async with Database(proxy.url) as database:
        with pytest.raises(OutcomeUnknown):
            async with database.transaction() as uow:
                await uow.ledger.record_fill(entry)
                proxy.cut_at(b"COMMIT", when=when)
        (again,) = await record(database, entry)
        assert again.duplicate is (when == "after")
        assert held(again.position) == (10, 100, 0)
        assert await verified(database) == 1
