"""The outbox and its worker: nothing lost, nothing doubled, whatever the other side does."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import random
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from qts_data.adapters import GoogleSheetsAdapter, HybridAdapter, TimescaleDBAdapter
from qts_data.adapters.feed import Feed
from qts_data.contracts import Correction, Reversal
from qts_data.demo.sheets_server import Fault, faults_at_random, faults_in_order
from qts_data.errors import ConfigurationError, DatabaseUnavailable, SourceRefused, SourceUnavailable
from qts_data.importers.tables import LEDGER, Defaults
from qts_data.moving.delivery import DeliveryConfig, OutboxWorker
from qts_data.repositories import Database
from tests.fixtures.effort import amount
from tests.fixtures.factories import FillFactory
from tests.fixtures.fix_sheets import no_wait
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

    from qts_data.contracts import LedgerEntry, Position
    from qts_data.demo.sheets_server import SheetsStandIn, Workbook
    from tests.fixtures.fix_proxy import Proxy
    from tests.fixtures.fix_sheets import MakeSheets

FILLS = amount(100, 200, "QTS_TEST_HYBRID_FILLS")
FAST = DeliveryConfig(idle_seconds=0.01, first_pause_seconds=0.01, longest_pause_seconds=0.02, settle_seconds=0.0)
SUSPICIOUS = dataclasses.replace(FAST, settle_seconds=3600.0)
"""What an unanswered request wrote stays suspect for as long as a test takes."""
TERMINATE_LOCK_HOLDERS = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
     WHERE classid = :one AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""Of this test's database: other processes test workers on the same server."""
SHORT_SECONDS = 1.5
"""How long a client waits for an answer that does not come: a busy machine's answers come before."""


@pytest_asyncio.fixture
async def database(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


@pytest_asyncio.fixture
async def sheets(make_sheets: MakeSheets) -> AsyncIterator[GoogleSheetsAdapter]:
    async with make_sheets() as made:
        yield made


@pytest_asyncio.fixture
async def hybrid(database: Database, sheets: GoogleSheetsAdapter) -> AsyncIterator[HybridAdapter]:
    async with TimescaleDBAdapter(database) as primary:
        made = HybridAdapter(primary, sheets)
        await made.outbox.feed()
        yield made


def checked_out(database: Database) -> int:
    pool: Any = database.engine.pool
    return int(pool.checkedout())


def worker_of(database: Database, sheets: GoogleSheetsAdapter, config: DeliveryConfig = FAST) -> OutboxWorker:
    return OutboxWorker(database, sheets.writer, config=config)


async def held(adapter: Any) -> dict[tuple[str, str], tuple[Decimal, ...]]:
    return {
        (one.account, one.symbol): (one.qty, one.avg_price, one.cost_basis, one.realized_pnl)
        for one in await adapter.fetch_positions()
    }


async def assert_both_sides_agree(hybrid: HybridAdapter) -> int:
    here = await hybrid.primary.fetch_ledger(limit=1_000_000)
    there = await hybrid.secondary.fetch_ledger(limit=1_000_000)
    assert Counter(entry.key for entry in there) == Counter(entry.key for entry in here)
    assert {entry.key: entry for entry in there} == {entry.key: entry for entry in here}
    for symbol in {entry.symbol for entry in here}:
        assert [one.key for one in there if one.symbol == symbol] == [one.key for one in here if one.symbol == symbol]
    assert await held(hybrid.secondary) == await held(hybrid.primary)
    return len(here)


async def test_what_is_booked_is_delivered_in_order(hybrid: HybridAdapter, sheets: GoogleSheetsAdapter) -> None:
    entries = [FillFactory.build(symbol=f"S{number % 3}", price=Decimal(number + 1)) for number in range(20)]
    for entry in entries:
        await hybrid.append_ledger(entry)
    before = await hybrid.outbox.status()
    assert (before.pending, before.dead, before.active) == (20, 0, True)
    assert before.lag is not None
    assert before.lag > dt.timedelta(0)
    assert await worker_of(hybrid.primary.database, sheets).drain() == 20
    after = await hybrid.outbox.status()
    assert (after.pending, after.delivered, after.lag, after.failures) == (0, 20, None, 0)
    assert await assert_both_sides_agree(hybrid) == 20


async def test_busts_and_corrections_are_delivered_as_lines_that_name_what_they_take_back(
    hybrid: HybridAdapter, sheets: GoogleSheetsAdapter, workbook: Workbook
) -> None:
    database = hybrid.primary.database
    first, second = FillFactory.build_batch(2)
    right = dataclasses.replace(second, qty=Decimal(7), amount=None, execution_id="C1")
    for entry in (first, second):
        await hybrid.append_ledger(entry)
    async with database.transaction() as uow:
        await uow.ledger.reverse_fill(
            Reversal(timestamp=first.timestamp, broker="test", execution_id="R1", reverses=str(first.execution_id))
        )
        await uow.ledger.correct_fill(Correction(entry=right, corrects=str(second.execution_id)))
    await worker_of(database, sheets).drain()
    assert await assert_both_sides_agree(hybrid) == 5
    column = LEDGER.fields.index("reverses")
    named = [row[column] if len(row) > column else None for row in workbook.sheets["T_Ledger"].cells[1:]]
    assert sorted(filter(None, named)) == sorted([str(first.execution_id), str(second.execution_id)])


async def test_a_bust_is_not_delivered_as_a_plain_sale_where_no_column_can_say_what_it_is(
    hybrid: HybridAdapter, sheets: GoogleSheetsAdapter, workbook: Workbook
) -> None:
    workbook.put("T_Ledger", [[name for name in LEDGER.fields if name != "reverses"]])
    database = hybrid.primary.database
    entry, other = FillFactory.build(), FillFactory.build(symbol="000660")
    await hybrid.append_ledger(entry)
    async with database.transaction() as uow:
        await uow.ledger.reverse_fill(
            Reversal(timestamp=entry.timestamp, broker="test", execution_id="R1", reverses=str(entry.execution_id))
        )
    await hybrid.append_ledger(other)
    worker = worker_of(database, sheets)
    await worker.drain()
    status = await hybrid.outbox.status()
    assert (status.pending, status.delivered) == (1, 2)
    async with database.reader() as reader:
        error = await reader.connection.scalar(sa.text("SELECT last_error FROM outbox"))
    assert "'T_Ledger' has no column reverses" in str(error)
    workbook.sheets["T_Ledger"].cells[0].append("reverses")
    await hybrid.outbox.revive()
    assert await worker.drain() == 1
    assert await assert_both_sides_agree(hybrid) == 3


async def test_a_column_that_is_inserted_while_a_worker_runs_moves_what_it_writes(
    hybrid: HybridAdapter, sheets: GoogleSheetsAdapter, workbook: Workbook
) -> None:
    worker = worker_of(hybrid.primary.database, sheets)
    await hybrid.append_ledger(FillFactory.build())
    await worker.drain()
    async with worker._alone() as alone:  # noqa: SLF001 - between two batches
        assert await alone()
        await worker.deliver_once()
        for title in ("T_Ledger", "Position"):
            for row in workbook.sheets[title].cells:
                row.insert(0, "mine")
        workbook.sheets["T_Ledger"].column_count += 1
        await hybrid.append_ledger(FillFactory.build())
        assert await worker.deliver_once() == 1
    assert await assert_both_sides_agree(hybrid) == 2


async def test_fills_that_are_fed_late_do_not_take_a_position_back(
    hybrid: HybridAdapter, sheets: GoogleSheetsAdapter
) -> None:
    await hybrid.outbox.starve()
    early = [await hybrid.primary.append_ledger(FillFactory.build(price=Decimal(price))) for price in (1, 2, 3)]
    await hybrid.outbox.feed()
    await hybrid.append_ledger(FillFactory.build(price=Decimal(4)))
    worker = worker_of(hybrid.primary.database, sheets, dataclasses.replace(FAST, batch=1))
    await worker.drain()
    async with hybrid.primary.database.transaction() as uow:
        await uow.outbox("sheets").add_fills([booked.ledger_id for booked in early])
    assert await worker.drain() == 3
    assert await held(sheets) == await held(hybrid.primary)


async def test_a_fill_that_is_rolled_back_leaves_nothing_in_the_outbox(hybrid: HybridAdapter) -> None:
    with pytest.raises(RuntimeError):
        async with hybrid.primary.database.transaction() as uow:
            await uow.ledger.record_fill(FillFactory.build())
            raise RuntimeError
    assert (await hybrid.outbox.status()).empty


async def test_a_valuation_is_delivered_too(hybrid: HybridAdapter, sheets: GoogleSheetsAdapter) -> None:
    position = (await hybrid.append_ledger(FillFactory.build())).position
    at = dt.datetime(2026, 11, 20, 6, tzinfo=dt.UTC)
    await hybrid.update_position(dataclasses.replace(position, mark_price=Decimal("99.5"), marked_at=at))
    await worker_of(hybrid.primary.database, sheets).drain()
    there = await sheets.fetch_position("005930")
    assert there is not None
    assert (there.mark_price, there.marked_at, there.unrealized_pnl) == (Decimal("99.5"), at, Decimal(-5))


EVERY_FAULT = [pytest.param(fault, id=fault.name) for fault in Fault]


@pytest.mark.parametrize("fault", EVERY_FAULT)
async def test_after_any_fault_of_a_write_the_sheet_has_each_fill_once(
    fault: Fault, hybrid: HybridAdapter, make_sheets: MakeSheets, standin: SheetsStandIn
) -> None:
    """The client repeats nothing here, so that the worker has to."""
    async with make_sheets(attempts=1, timeout_seconds=SHORT_SECONDS) as sheets:
        worker = worker_of(hybrid.primary.database, sheets, SUSPICIOUS)
        await hybrid.append_ledger(FillFactory.build())
        await worker.drain()
        standin.delay_seconds = 3.0
        for entry in FillFactory.build_batch(3):
            await hybrid.append_ledger(entry)
        standin.faults = faults_in_order([fault], method="POST")
        with pytest.raises(SourceUnavailable):
            await worker.drain()
        assert not (await hybrid.outbox.status()).empty
        assert (await hybrid.outbox.status()).failures == 1
        await hybrid.append_ledger(FillFactory.build())
        assert await worker.drain() == 4
        await eventually(lambda: not standin.in_flight)
        await worker.settle()
        assert await assert_both_sides_agree(hybrid) == 5


async def test_a_late_request_meets_its_own_rows_whoever_is_delivered_in_the_meantime(
    hybrid: HybridAdapter, make_sheets: MakeSheets, standin: SheetsStandIn, workbook: Workbook
) -> None:
    database = hybrid.primary.database
    standin.delay_seconds = 2 * SHORT_SECONDS
    async with make_sheets(attempts=1, timeout_seconds=SHORT_SECONDS) as sheets:
        worker = worker_of(database, sheets, SUSPICIOUS)
        await worker.drain()
        async with database.transaction() as first:
            await first.ledger.record_fill(FillFactory.build(symbol="A"))
            await hybrid.append_ledger(FillFactory.build(symbol="B"))
            standin.faults = faults_in_order([Fault.LATE], method="POST")
            with pytest.raises(SourceUnavailable):
                await worker.drain()
        assert await worker.drain() == 2  # the fill with the lower id, which was not there yet, and the other one again
        await eventually(lambda: not standin.in_flight)
        await worker.settle()
        assert len(workbook.sheets["T_Ledger"].cells) == 3
        assert await assert_both_sides_agree(hybrid) == 2


async def test_a_position_that_a_late_attempt_took_back_is_put_right_though_the_request_succeeded(
    hybrid: HybridAdapter, make_sheets: MakeSheets, standin: SheetsStandIn
) -> None:
    standin.delay_seconds = 2 * SHORT_SECONDS
    async with make_sheets(timeout_seconds=SHORT_SECONDS) as sheets:
        worker = worker_of(hybrid.primary.database, sheets, SUSPICIOUS)
        await hybrid.append_ledger(FillFactory.build())
        standin.faults = faults_in_order([Fault.LATE], method="POST")
        await worker.drain()
        await hybrid.append_ledger(FillFactory.build())
        await worker.drain()
        assert worker.failures == 0
        await eventually(lambda: not standin.in_flight)
        await worker.drain()
        assert await assert_both_sides_agree(hybrid) == 2
        positions = await sheets.workbook.records("positions")
        assert [one.qty for one in positions] == [20]


async def test_fills_in_a_storm_of_faults_are_neither_lost_nor_doubled(
    hybrid: HybridAdapter, make_sheets: MakeSheets, standin: SheetsStandIn
) -> None:
    dice = random.Random(7)
    standin.faults = faults_at_random(7, 0.25, weights=[3, 3, 2, 2, 2, 3, 0.3, 0.3])
    standin.delay_seconds = 0.3
    async with make_sheets(attempts=2, timeout_seconds=0.15, first_pause_seconds=0.001) as sheets:
        config = dataclasses.replace(SUSPICIOUS, batch=max(10, FILLS // 40))
        worker = worker_of(hybrid.primary.database, sheets, config)
        stop = asyncio.Event()
        running = asyncio.create_task(worker.run(stop))
        for number in range(0, FILLS, 20):
            batch = [
                FillFactory.build(
                    symbol=f"S{dice.randrange(30)}",
                    side=dice.choice(["BUY", "SELL"]),
                    qty=Decimal(dice.randrange(1, 10**10)).scaleb(-8),
                    price=Decimal(dice.randrange(1, 10**12)).scaleb(-6),
                    execution_id=f"H{number + place}",
                )
                for place in range(20)
            ]
            await asyncio.gather(*(hybrid.append_ledger(entry) for entry in batch))

        async def delivered() -> bool:
            return (await hybrid.outbox.status()).empty

        await eventually(delivered)
        stop.set()
        await running
        standin.faults = lambda _method: None
        await eventually(lambda: not standin.in_flight)
        await worker.settle()
        assert worker.failures > 0
        assert await assert_both_sides_agree(hybrid) == FILLS


async def test_a_dead_secondary_neither_fails_a_trade_nor_is_it_asked(
    hybrid: HybridAdapter, standin: SheetsStandIn
) -> None:
    standin.faults = lambda _method: Fault.DROP
    for entry in FillFactory.build_batch(10):
        assert not (await hybrid.append_ledger(entry)).duplicate
    assert (await hybrid.outbox.status()).pending == 10
    assert not standin.calls


async def test_what_the_sheet_refuses_is_laid_aside_and_holds_up_its_position_only(
    hybrid: HybridAdapter, sheets: GoogleSheetsAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sheets.client.write

    async def picky(values: Any) -> None:
        if any("BAD" in row for _, rows in values for row in rows):
            raise SourceRefused("APIError: [400]: no")
        await real(values)

    monkeypatch.setattr(sheets.client, "write", picky)
    for symbol in ("A", "BAD", "B", "BAD", "A"):
        await hybrid.append_ledger(FillFactory.build(symbol=symbol))
    worker = worker_of(hybrid.primary.database, sheets, dataclasses.replace(FAST, most_attempts=2))
    await worker.drain()
    status = await hybrid.outbox.status()
    assert (status.pending, status.dead, status.delivered) == (2, 0, 3)
    async with hybrid.primary.database.transaction() as uow:
        await uow.connection.execute(sa.text("UPDATE outbox SET next_attempt_at = now()"))
    await worker.drain()
    status = await hybrid.outbox.status()
    assert (status.pending, status.dead) == (1, 1)
    assert list(await held(sheets)) == [("main", "A"), ("main", "B")]
    monkeypatch.setattr(sheets.client, "write", real)
    assert await hybrid.outbox.revive() == 1
    assert await worker.drain() == 2
    assert (await assert_both_sides_agree(hybrid)) == 5


async def test_two_workers_do_not_deliver_at_the_same_time(
    hybrid: HybridAdapter, sheets: GoogleSheetsAdapter, make_sheets: MakeSheets
) -> None:
    first = worker_of(hybrid.primary.database, sheets)
    async with first._alone() as alone, make_sheets() as others:  # noqa: SLF001 - a worker that holds still
        assert await alone()
        with pytest.raises(ConfigurationError, match="another process"):
            await worker_of(hybrid.primary.database, others).drain()
    assert await first.drain() == 0


async def test_a_worker_that_lost_its_lock_leaves_the_sheet_to_the_other_one(
    hybrid: HybridAdapter, sheets: GoogleSheetsAdapter, make_sheets: MakeSheets
) -> None:
    database = hybrid.primary.database
    async with make_sheets() as others:
        first, second = worker_of(database, sheets), worker_of(database, others)
        stop, stop_first = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(first.run(stop_first))
        await hybrid.append_ledger(FillFactory.build(symbol="S0"))
        await eventually(lambda: first.delivered == 1)
        async with second._alone() as alone:  # noqa: SLF001 - a worker that holds still
            assert not await alone()
        async with first._database.transaction() as uow:  # noqa: SLF001
            holders = await uow.connection.scalars(
                sa.text(f"{TERMINATE_LOCK_HOLDERS} AND locktype = 'advisory'"),
                {"one": 0x515455},
            )
            assert holders.all() == [True]
        also = asyncio.create_task(second.run(stop))
        for number in range(1, 30):
            await hybrid.append_ledger(FillFactory.build(symbol=f"S{number}"))

        async def delivered() -> bool:
            return (await hybrid.outbox.status()).empty

        await eventually(delivered)
        stop_first.set()
        await running
        before = second.delivered
        await hybrid.append_ledger(FillFactory.build(symbol="S30"))
        await eventually(lambda: second.delivered > before)
        stop.set()
        await also
        assert await assert_both_sides_agree(hybrid) == 31


async def test_a_worker_whose_lock_is_gone_says_so_and_sends_nothing(
    hybrid: HybridAdapter, sheets: GoogleSheetsAdapter
) -> None:
    worker = worker_of(hybrid.primary.database, sheets)
    with pytest.raises(DatabaseUnavailable):
        async with worker._alone() as alone:  # noqa: SLF001 - a worker between two batches
            assert await alone()
            async with hybrid.primary.database.transaction() as uow:
                await uow.connection.execute(sa.text(TERMINATE_LOCK_HOLDERS), {"one": 0x515455})
            await alone()
    assert await worker.drain() == 0


async def test_without_a_feed_a_hybrid_books_nothing(database: Database, sheets: GoogleSheetsAdapter) -> None:
    async with TimescaleDBAdapter(database) as primary:
        hybrid = HybridAdapter(primary, sheets)
        with pytest.raises(ConfigurationError, match="qts-data migrate shadow"):
            await hybrid.append_ledger(FillFactory.build())
        assert not await hybrid.fetch_ledger()
        await hybrid.outbox.feed(until=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        with pytest.raises(ConfigurationError):
            await hybrid.append_ledger(FillFactory.build())


async def test_a_hybrid_that_closes_gives_its_connection_back(
    database: Database, sheets: GoogleSheetsAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise SourceUnavailable("the other source went first")

    primary = TimescaleDBAdapter(database)
    async with HybridAdapter(primary, sheets) as hybrid:
        await hybrid.outbox.feed()
        await hybrid.append_ledger(FillFactory.build())
        assert checked_out(database) == 1
    assert checked_out(database) == 0
    await hybrid.append_ledger(FillFactory.build())
    monkeypatch.setattr(sheets, "close", fail)
    with pytest.raises(SourceUnavailable):
        await hybrid.close()
    assert checked_out(database) == 0
    await primary.close()  # as its own context manager does


async def test_the_engines_role_may_feed_and_deliver(database_url: URL, sheets: GoogleSheetsAdapter) -> None:
    url = database_url.update_query_dict({"options": "-c role=qts_engine"})
    async with Database(url) as database, TimescaleDBAdapter(database) as primary:
        hybrid = HybridAdapter(primary, sheets)
        await hybrid.outbox.feed()
        await hybrid.append_ledger(FillFactory.build())
        assert await worker_of(database, sheets).drain() == 1
        assert await assert_both_sides_agree(hybrid) == 1


async def test_a_feed_ends_when_it_is_told_to(hybrid: HybridAdapter) -> None:
    feed = Feed(hybrid.primary.database)
    await hybrid.append_ledger(FillFactory.build())
    await feed.starve()
    await hybrid.primary.append_ledger(FillFactory.build())
    assert (await feed.status()).pending == 1
    assert not (await feed.status()).active


async def test_a_fallback_read_says_so_and_positions_do_not_fall_back_unless_asked(
    proxy: Proxy, sheets: GoogleSheetsAdapter
) -> None:
    entry: LedgerEntry = FillFactory.build()
    await sheets.append_ledger(entry)
    async with Database(proxy.url) as database, TimescaleDBAdapter(database) as primary:
        hybrid = HybridAdapter(primary, sheets)
        assert not (await hybrid.fetch_ledger()).fallback
        await proxy.stop()
        found = await hybrid.fetch_ledger()
        assert (list(found), found.fallback, found.source) == ([entry], True, "sheets")
        with pytest.raises(DatabaseUnavailable):
            await hybrid.fetch_positions()
        with pytest.raises(DatabaseUnavailable):
            await hybrid.fetch_position("005930")
        asked = await hybrid.fetch_positions(allow_fallback=True)
        positions: list[Position] = list(asked)
        assert asked.fallback
        assert positions[0].qty == 10
        assert not (await hybrid.health_check()).healthy


async def test_the_clocks_quota_is_kept_and_pauses_are_honoured(
    make_sheets: MakeSheets, standin: SheetsStandIn
) -> None:
    standin.faults = faults_in_order([Fault.QUOTA, Fault.UNAVAILABLE, Fault.DROP])
    async with make_sheets() as sheets:
        assert (await sheets.health_check()).healthy
        assert sheets.client.retries == 3
    assert Defaults().broker == "sheet"
    await no_wait(0)
