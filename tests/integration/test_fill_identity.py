"""Redelivered and distinct fills: every way of booking gives the same answer and the same ledger."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import datetime as dt
import random
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from qts_data.adapters import InMemoryAdapter
from qts_data.adapters.kis_ids import KisFills, KisOrder
from qts_data.contracts import BookedFill, Correction, LedgerEntry, Reversal
from qts_data.errors import ConfigurationError, InvalidRecord, LedgerConflict
from qts_data.importers.tables import Defaults
from qts_data.operations.csv_files import CsvMapping, import_csv
from qts_data.repositories import Database
from qts_data.rules.fill_identity import FillIdentity
from qts_data.writers import FillWriter
from tests.fixtures.factories import FillFactory
from tests.fixtures.pages import blocks, run_python

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

MORNING = dt.datetime(2026, 11, 20, 0, 0, 1, tzinfo=dt.UTC)  # 09:00:01 in Korea
MIDNIGHT = dt.datetime(2026, 11, 20, 15, tzinfo=dt.UTC)  # in Korea
SECOND = dt.timedelta(seconds=1)
DAY = dt.timedelta(days=1)

Book: TypeAlias = Callable[[Database, Sequence[LedgerEntry], Path], Awaitable[list[str]]]


def fill(**fields: Any) -> LedgerEntry:
    return FillFactory.build(**{"timestamp": MORNING, "execution_id": "17", "qty": Decimal(1)} | fields)


def outcome(result: object) -> str:
    if isinstance(result, BookedFill):
        return "duplicate" if result.duplicate else "booked"
    return "conflict" if isinstance(result, LedgerConflict) or "this execution id" in str(result) else str(result)


async def each(record: Callable[[LedgerEntry], Awaitable[BookedFill]], entries: Sequence[LedgerEntry]) -> list[str]:
    results: list[str] = []
    for entry in entries:
        try:
            results.append(outcome(await record(entry)))
        except LedgerConflict as error:
            results.append(outcome(error))
    return results


async def by_record_fill(book: Database, entries: Sequence[LedgerEntry], _: Path) -> list[str]:
    async def record(entry: LedgerEntry) -> BookedFill:
        async with book.transaction() as uow:
            return await uow.ledger.record_fill(entry)

    return await each(record, entries)


async def by_fill_writer(book: Database, entries: Sequence[LedgerEntry], _: Path) -> list[str]:
    async with FillWriter(book) as writer:
        return await each(writer.record_fill, entries)


async def by_record_fills(book: Database, entries: Sequence[LedgerEntry], _: Path) -> list[str]:
    results: list[str] = []
    for start in range(0, len(entries), 7):
        async with book.transaction() as uow:
            part = await uow.ledger.record_fills(entries[start : start + 7], on_error="collect")
        results += [outcome(one if isinstance(one, BookedFill) else one.reason) for one in part]
    return results


async def by_csv(book: Database, entries: Sequence[LedgerEntry], directory: Path) -> list[str]:
    names = ("timestamp", "account", "symbol", "side", "qty", "price", "order_id", "broker", "execution_id")
    path = directory / f"{random.randrange(10**9)}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for one in entries:
            writer.writerow([one.timestamp.isoformat(), *(getattr(one, name) for name in names[1:])])
    report = await import_csv(book, path, "ledger", CsvMapping(defaults=Defaults(identity=book.identity)))
    rejected = {one.line: outcome(one.reason) for one in report.rejects}
    taken = iter(["booked"] * report.written + ["duplicate"] * report.unchanged)
    return [rejected.get(line) or next(taken) for line in range(2, len(entries) + 2)]


WAYS: dict[str, Book] = {
    "record_fill": by_record_fill, "FillWriter": by_fill_writer, "record_fills": by_record_fills, "csv": by_csv,
}  # fmt: skip
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


async def stored(book: Database, account: str = "main") -> list[tuple[str, dt.datetime, Decimal]]:
    async with book.reader() as reader:
        assert (await reader.positions.verify_positions()).mismatches == ()
        found = await reader.ledger.list_entries(account=account)
    return [(one.entry.stored_execution_id, one.entry.timestamp, one.entry.qty) for one in found]


@every_way
async def test_only_the_fill_time_decides_between_redelivery_and_clash(
    database_url: URL, tmp_path: Path, way: Book
) -> None:
    late = fill(execution_id="18", timestamp=MIDNIGHT - 20 * SECOND)
    shifts = (dt.timedelta(milliseconds=400), 14 * DAY / 24, DAY, 3 * DAY, -365 * DAY, -400 * DAY)
    given = [fill(), *(fill(timestamp=MORNING + shift) for shift in shifts), late]
    given += [dataclasses.replace(late, timestamp=MIDNIGHT + seconds * SECOND) for seconds in (39, 41)]
    async with Database(database_url) as book:
        results = await way(book, given, tmp_path)
        wanted = ["booked", "duplicate", "duplicate", *["conflict"] * 4, "booked", "duplicate", "conflict"]
        assert sorted(results) == sorted(wanted)
        if way is not by_csv:  # an import only counts
            assert results == wanted
        assert [row[:2] for row in await stored(book)] == [("17", MORNING), ("18", late.timestamp)]


async def test_a_clash_names_both_times_and_the_fields(database_url: URL) -> None:
    async with Database(database_url) as book:
        await by_record_fill(book, [fill()], Path())
        other = fill(timestamp=MORNING + 3 * DAY, fee=Decimal(2))
        async with FillWriter(book) as writer:
            await writer.record_fill(fill(execution_id="18"))
            with pytest.raises(LedgerConflict) as caught:
                await writer.record_fill(other)
    said = "2026-11-20T09:00:01+09:00 and 2026-11-23T09:00:01+09:00 are of different trading days (Asia/Seoul)"
    assert "fee differs" in caught.value.reason
    assert said in caught.value.reason
    assert "QTS_BOOK_ID_SCOPES" in caught.value.reason


@every_way
async def test_trade_ids_of_two_symbols_both_book_where_declared(database_url: URL, tmp_path: Path, way: Book) -> None:
    given = [
        fill(symbol=symbol, broker="binance", market="BINANCE" if way is not by_csv else "KRX", execution_id="28457")
        for symbol in ("BTCUSDT", "ETHUSDT", "BTCUSDT")
    ]
    async with Database(database_url, identity=FillIdentity(id_scopes={"binance": "symbol"})) as book:
        assert await way(book, given, tmp_path) == ["booked", "booked", "duplicate"]
        ids = [row[0] for row in await stored(book)]
        assert ids == ["scope:symbol=BTCUSDT/28457", "scope:symbol=ETHUSDT/28457"]
        async with book.reader() as reader:
            both = await reader.ledger.find_entries("binance", "main", "28457")
            one = await reader.ledger.find_entry("binance", "main", ids[1])
            assert await reader.ledger.find_entry("binance", "main", "28457") is None
    assert [found.entry.symbol for found in both] == ["BTCUSDT", "ETHUSDT"]
    assert one == both[1]
    assert (both[0].entry.execution_id, both[0].entry.id_scope) == ("28457", "symbol=BTCUSDT")


@every_way
async def test_a_fill_booked_before_its_scope_was_declared_is_known(
    database_url: URL, tmp_path: Path, way: Book
) -> None:
    async with Database(database_url) as book:
        await way(book, [fill(), fill(execution_id="18")], tmp_path)
    async with Database(database_url, identity=FillIdentity(id_scopes={"test": "day"})) as book:
        given = [fill(execution_id="19"), fill(), fill(timestamp=MORNING + DAY)]
        assert sorted(await way(book, given, tmp_path)) == ["booked", "booked", "duplicate"]
        ids = [row[0] for row in await stored(book)]
        assert ids == ["17", "18", "scope:day=2026-11-20/19", "scope:day=2026-11-21/17"]


ID_SCOPES = [None, "symbol", "day", "day,symbol,order", "side"]


def with_scope(scope: str | None) -> FillIdentity:
    return FillIdentity(id_scopes={} if scope is None else {"test": scope})


@every_way
async def test_fill_booked_in_one_scope_is_booked_in_no_other(database_url: URL, tmp_path: Path, way: Book) -> None:
    """Each ordered pair of scopes, also none: a second process books no fill twice."""
    for number, (first, second) in enumerate((one, two) for one in ID_SCOPES for two in ID_SCOPES):
        broker = f"kis{number}"
        given = [fill(broker=broker, account=broker, order_id="7")]
        rules = [FillIdentity(id_scopes={} if one is None else {broker: one}) for one in (first, second)]
        async with Database(database_url, identity=rules[0]) as book:
            assert await way(book, given, tmp_path) == ["booked"]
        async with Database(database_url, identity=rules[1]) as book:
            wanted = "duplicate" if first in {None, second} else "conflict"
            assert await way(book, given, tmp_path) == [wanted], (first, second)
            assert len(await stored(book, broker)) == 1


async def test_writer_at_work_sees_the_scope_of_another_process(database_url: URL) -> None:
    """The writer remembers its position, and its fills go out in one round trip."""
    async with Database(database_url) as bare, Database(database_url, identity=with_scope("symbol")) as scoped:
        async with FillWriter(bare) as writer:
            await writer.record_fill(fill(execution_id="1"))
            await writer.record_fill(fill(execution_id="2"))
            assert await by_record_fill(scoped, [fill()], Path()) == ["booked"]
            for _ in range(2):
                with pytest.raises(LedgerConflict, match=r"in the scope 'symbol'.* has no scope.*QTS_BOOK_ID_SCOPES"):
                    await writer.record_fill(fill())
            # A key of the caller's own has no scope, and a fill that is booked stays a duplicate.
            await writer.record_fill(fill(execution_id=None, idempotency_key="own"))
            assert (await writer.record_fill(fill(execution_id="2"))).duplicate
            await writer.record_fill(fill(broker="other"))
        async with FillWriter(scoped) as writer:
            assert (await writer.record_fill(fill())).duplicate
            assert (await writer.record_fill(fill(execution_id="1"))).duplicate
            assert not (await writer.record_fill(fill(execution_id="3"))).duplicate


async def test_scope_of_a_broker_is_changed_on_purpose(database_url: URL) -> None:
    async with Database(database_url, identity=with_scope("symbol")) as book:
        assert await by_record_fill(book, [fill()], Path()) == ["booked"]
        async with book.transaction() as uow:
            await uow.ledger.change_id_scope("test", "symbol,day")
        assert await by_record_fill(book, [fill(execution_id="18")], Path()) == ["conflict"]
        async with book.transaction() as uow:
            await uow.ledger.change_id_scope("test", None)
        assert await by_record_fill(book, [fill(execution_id="18")], Path()) == ["booked"]


@every_way
async def test_a_day_in_the_id_does_not_double_a_fill_at_midnight(database_url: URL, tmp_path: Path, way: Book) -> None:
    before, after = fill(timestamp=MIDNIGHT - 2 * SECOND), fill(timestamp=MIDNIGHT + 3 * SECOND)
    other = fill(timestamp=MIDNIGHT + 3 * SECOND, qty=Decimal(2))
    async with Database(database_url, identity=FillIdentity(id_scopes={"test": "day"})) as book:
        given = [fill(execution_id="1"), before, after, other]
        assert sorted(await way(book, given, tmp_path)) == ["booked", "booked", "booked", "duplicate"]
        ids = [row[0] for row in await stored(book)]
        assert ids == ["scope:day=2026-11-20/1", "scope:day=2026-11-20/17", "scope:day=2026-11-21/17"]


class Model:
    """Decide by the rule in a few lines, independent of the code under test."""

    def __init__(self, scope: str) -> None:
        self._kinds = [kind for kind in scope.split(",") if kind]
        self._booked: dict[tuple[str, ...], LedgerEntry] = {}
        self.ledger: list[tuple[dt.datetime, Decimal]] = []

    def take(self, entry: LedgerEntry) -> str:
        key = self._key(entry, entry.timestamp)
        found = self._booked.get(key)
        if found is not None:
            near = abs(found.timestamp - entry.timestamp) <= 60 * SECOND
            same = near or korean_day(found.timestamp) == korean_day(entry.timestamp)
            return "duplicate" if same and content(found) == content(entry) else "conflict"
        for shift in (60 * SECOND, -60 * SECOND):
            other = self._booked.get(self._key(entry, entry.timestamp + shift))
            near = other is not None and abs(other.timestamp - entry.timestamp) <= 60 * SECOND
            if other is not None and near and content(other) == content(entry):
                return "duplicate"
        self._booked[key] = entry
        self.ledger.append((entry.timestamp, entry.qty))
        return "booked"

    def _key(self, entry: LedgerEntry, at: dt.datetime) -> tuple[str, ...]:
        parts = {
            "day": str(korean_day(at)), "symbol": entry.symbol, "order": entry.order_id or "", "side": entry.side,
        }  # fmt: skip
        return (entry.execution_id or "", *(parts[kind] for kind in self._kinds))


def korean_day(at: dt.datetime) -> dt.date:
    return (at + dt.timedelta(hours=9)).date()


def content(entry: LedgerEntry) -> tuple[object, ...]:
    return entry.symbol, entry.side, entry.qty, entry.price, entry.order_id


def stream(chance: random.Random, length: int, account: str) -> list[LedgerEntry]:
    """Fills whose ids restart, many near midnight, with redeliveries at any later time."""
    made: list[LedgerEntry] = []
    for _ in range(length):
        if made and chance.random() < 0.4:
            seconds = chance.choice([0, 0, 0.4, 1, 59, 61, -59, 3600, 86_400])
            again = chance.choice(made)
            made.append(dataclasses.replace(again, timestamp=again.timestamp + dt.timedelta(seconds=seconds)))
            continue
        offset = chance.choice([0, 0, 3600, 15 * 3600 - 20, 15 * 3600 + 20])
        made.append(
            fill(
                timestamp=MORNING - SECOND + chance.randrange(3) * DAY + dt.timedelta(seconds=offset),
                account=account,
                symbol=chance.choice(["BTC", "ETH"]),
                side=chance.choice(["BUY", "SELL"]),
                qty=Decimal(chance.choice([1, 2])),
                order_id=chance.choice(["7", "8"]),
                execution_id=str(chance.randrange(1, 4)),
            )
        )
    return made


SCOPES = ("", "day", "symbol", "day,symbol", "order,side", "day,symbol,order,side")


@pytest.mark.parametrize("scope", SCOPES)
async def test_any_stream_makes_the_same_ledger_in_all_four_ways(database_url: URL, tmp_path: Path, scope: str) -> None:
    chance = random.Random(scope)
    rules = FillIdentity(id_scopes={"test": scope} if scope else {})
    async with Database(database_url, identity=rules) as book:
        for number in range(2):
            given = stream(chance, 30, "main")
            model, memory = Model(scope), InMemoryAdapter(rules)
            wanted = [model.take(entry) for entry in given]
            assert await each(memory.append_ledger, given) == wanted
            for name, way in WAYS.items():
                account = f"{name}-{number}"
                found = await way(book, [dataclasses.replace(one, account=account) for one in given], tmp_path)
                assert (found if way is not by_csv else sorted(found)) == (
                    wanted if way is not by_csv else sorted(wanted)
                )
                assert [row[1:] for row in await stored(book, account)] == model.ledger


async def test_a_bust_finds_its_fill_by_the_stored_id(database_url: URL) -> None:
    async with Database(database_url, identity=FillIdentity(id_scopes={"test": "day"})) as book:
        first, second = fill(), fill(timestamp=MORNING + DAY, qty=Decimal(5))
        name = book.identity.scoped(second).stored_execution_id
        bust = Reversal(timestamp=MORNING + DAY, broker="test", execution_id="B1", reverses=name)
        async with book.transaction() as uow:
            assert await uow.ledger.reverse_fill(bust) is None  # before its fill
            assert await uow.ledger.reverse_fill(dataclasses.replace(bust, timestamp=MORNING + DAY + SECOND)) is None
            (kept,) = await uow.ledger.list_pending_reports()
            assert kept.key == ("test", "main", "scope:day=2026-11-21/B1")
            with pytest.raises(LedgerConflict, match=r"another report waits under this execution id: .*of different"):
                await uow.ledger.reverse_fill(
                    dataclasses.replace(bust, timestamp=MORNING + 2 * DAY, id_scope="day=2026-11-21")
                )
        async with FillWriter(book) as writer:
            await writer.record_fill(first)
            booked = await writer.record_fill(second)
        assert [one.position.qty for one in booked.applied] == [1]
        async with book.transaction() as uow:
            again = await uow.ledger.reverse_fill(bust)
            assert again is not None
            assert again.duplicate
            for reference in ("9", "17"):
                with pytest.raises(InvalidRecord, match="names no single fill"):
                    await uow.ledger.reverse_fill(dataclasses.replace(bust, reverses=reference))
            right = fill(timestamp=MORNING, execution_id="C1", qty=Decimal(3))
            corrected = await uow.ledger.correct_fill(Correction(entry=right, corrects="scope:day=2026-11-20/17"))
            assert corrected is not None
            assert corrected.position.qty == 3
        ids = [row[0] for row in await stored(book)]
        assert ids[2:] == [f"scope:day={day}" for day in ("2026-11-21/B1", "2026-11-20/C1/reversal", "2026-11-20/C1")]


@pytest.mark.parametrize("scope", ["day", "day,symbol,order", None])
@pytest.mark.parametrize("corrects", [False, True], ids=["bust", "correction"])
@pytest.mark.parametrize("fill_first", [False, True], ids=["waits", "booked"])
async def test_report_sent_again_after_midnight_is_the_same(
    database_url: URL, scope: str | None, *, corrects: bool, fill_first: bool
) -> None:
    """One second before midnight, then one after it. With None: before and after the scope was declared."""
    before = FillIdentity(id_scopes={"test": scope} if scope else {})
    original = fill(timestamp=MIDNIGHT - 60 * SECOND, order_id="7")
    name = before.scoped(original).stored_execution_id

    def report(at: dt.datetime) -> Reversal | Correction:
        if corrects:
            right = dataclasses.replace(original, execution_id="R", timestamp=at, strategy_tag="right")
            return Correction(entry=right, corrects=name)
        return Reversal(timestamp=at, broker="test", execution_id="R", reverses=name)

    async def send(given: Reversal | Correction) -> BookedFill | None:
        async with Database(database_url, identity=before) as book, book.transaction() as uow:
            if isinstance(given, Correction):
                return await uow.ledger.correct_fill(given)
            return await uow.ledger.reverse_fill(given)

    async def book_fill() -> None:
        async with Database(database_url, identity=before) as book, book.transaction() as uow:
            applied = (await uow.ledger.record_fill(original)).applied
            assert len(applied) == (0 if fill_first else 1)

    if fill_first:
        await book_fill()
    first = await send(report(MIDNIGHT - SECOND))
    assert (first is not None) == fill_first
    again = report(MIDNIGHT + SECOND)
    second = await send(again if scope else _scoped_by_day(again))
    assert (second is not None and second.duplicate) == fill_first
    if not fill_first:
        async with Database(database_url, identity=before) as book, book.reader() as reader:
            assert len(await reader.ledger.list_pending_reports()) == 1
        await book_fill()
    async with Database(database_url, identity=before) as book, book.reader() as reader:
        assert await reader.ledger.list_pending_reports() == []
        assert len(await reader.ledger.list_entries()) == (3 if corrects else 2)


def _scoped_by_day(report: Reversal | Correction) -> Reversal | Correction:
    day = f"day={korean_day(report.timestamp)}"
    if isinstance(report, Reversal):
        return dataclasses.replace(report, id_scope=day)
    return dataclasses.replace(report, entry=dataclasses.replace(report.entry, id_scope=day))


async def test_a_bust_of_another_day_under_its_id_is_a_clash(database_url: URL) -> None:
    async with Database(database_url) as book, book.transaction() as uow:
        await uow.ledger.record_fill(fill())
        bust = Reversal(timestamp=MORNING, broker="test", execution_id="B1", reverses="17")
        assert await uow.ledger.reverse_fill(bust) is not None
        again = await uow.ledger.reverse_fill(dataclasses.replace(bust, timestamp=MORNING + 14 * DAY / 24))
        assert again is not None
        assert again.duplicate
        with pytest.raises(LedgerConflict, match=r"another report has this execution id: .*2026-11-23T09:00:01"):
            await uow.ledger.reverse_fill(dataclasses.replace(bust, timestamp=MORNING + 3 * DAY))


async def test_a_file_declares_the_scope_of_its_broker(database_url: URL, tmp_path: Path) -> None:
    mapping, file = tmp_path / "binance.toml", tmp_path / "fills.csv"
    mapping.write_text('[defaults]\nbroker = "binance"\n[id_scopes]\nbinance = "symbol"\n')
    file.write_text(
        "time,symbol,side,qty,price,exec id,reverses\n"
        "2026-11-20 09:00:01,BTC,BUY,1,100,28457,\n"
        "2026-11-20 09:00:02,ETH,BUY,2,100,28457,\n"
        "2026-11-20 09:00:03,ETH,SELL,2,100,28458,28457\n"
    )
    async with Database(database_url) as book:
        how = CsvMapping.load(mapping, Defaults())
        for written in (3, 0):
            report = await import_csv(book, file, "ledger", how)
            assert (report.written, report.unchanged, report.rejects) == (written, 3 - written, ())
        async with book.reader() as reader:
            held = {one.symbol: one.qty for one in await reader.positions.list_positions()}
    assert held == {"BTC": 1, "ETH": 0}
    declared = Defaults(identity=FillIdentity(id_scopes={"binance": "day"}))
    with pytest.raises(ConfigurationError, match="the id scope of 'binance' is 'symbol' here, and 'day' in"):
        CsvMapping.load(mapping, declared)
    mapping.write_text('[id_scopes]\nbinance = "month"\n')
    with pytest.raises(ConfigurationError, match=r"binance\.toml: the id scope of 'binance': 'month' is not a scope"):
        CsvMapping.load(mapping, Defaults())


async def test_kis_fills_end_in_the_position_of_the_broker(database_url: URL) -> None:
    order = KisOrder(dt.date(2026, 11, 20), "06010", "0000117057")
    price = Decimal(71500)

    def entry(qty: Decimal, execution_id: str) -> LedgerEntry:
        return fill(qty=qty, price=price, broker="kis", order_id=order.number, execution_id=execution_id)

    async with Database(database_url) as book:
        async with book.transaction() as uow:
            fills = await KisFills.load(uow.ledger, order, symbol="005930")
            for number, qty in enumerate((3, 7, 3)):
                made = fills.notice(Decimal(qty), price, MORNING + number * SECOND)
                assert made is not None
                booked = await uow.ledger.record_fill(entry(made.qty, made.execution_id))
                assert not booked.duplicate
            assert booked.position.qty == 13
            assert (await uow.ledger.record_fill(entry(Decimal(3), order.execution_id(13)))).duplicate
        async with book.reader() as reader:  # after a restart, with a notice of 2 lost meanwhile
            fills = await KisFills.load(reader.ledger, order, symbol="005930")
        missing = fills.total(Decimal(15), 15 * price, MORNING + 60 * SECOND)
        assert missing is not None
        async with FillWriter(book) as writer:
            booked = await writer.record_fill(entry(missing.qty, missing.execution_id))
        assert booked.position.qty == 15
        assert missing.execution_id == order.execution_id(15)


async def test_kis_load_counts_busts_and_corrections(database_url: URL) -> None:
    """The quantity is without reversed fills, the amount has corrected prices, and no id comes twice."""
    order, price = KisOrder(dt.date(2026, 11, 20), "06010", "0000117057"), Decimal(71500)

    def entry(qty: int, execution_id: str, **more: Any) -> LedgerEntry:
        return fill(qty=Decimal(qty), broker="kis", execution_id=execution_id, **{"price": price} | more)

    async with Database(database_url) as book, book.transaction() as uow:
        fills = KisFills(order)
        for qty in (3, 7, 3):
            made = fills.notice(Decimal(qty), price, MORNING)
            assert made is not None
            await uow.ledger.record_fill(entry(qty, made.execution_id))
        bust = Reversal(timestamp=MORNING + 5 * DAY, broker="kis", execution_id="B", reverses=order.execution_id(13))
        await uow.ledger.reverse_fill(bust)
        for number, (qty, corrects) in enumerate([(6, order.execution_id(10)), (5, "C0")]):
            right = entry(qty, f"C{number}", price=Decimal(71400))
            await uow.ledger.correct_fill(Correction(entry=right, corrects=corrects))
        fills = await KisFills.load(uow.ledger, order, symbol=entry(1, "x").symbol)
        assert fills.cumulative == 3 + 5
        amount = 3 * price + 5 * Decimal(71400)
        made = fills.total(Decimal(10), amount + 2 * Decimal(71300), MORNING + SECOND)
        assert made is not None
        assert (made.qty, made.price, made.execution_id) == (Decimal(2), Decimal(71300), order.execution_id(15))
        booked = await uow.ledger.record_fill(entry(2, made.execution_id, price=made.price))
        assert not booked.duplicate
        assert booked.position.qty == 10


async def test_a_fill_moves_the_share_of_the_equity(database_url: URL) -> None:
    """By every way of booking the share stays that of the last equity and does not drift by rounding."""
    async with Database(database_url) as book:
        await by_record_fill(book, [fill(qty=Decimal(3))], Path())
        async with book.transaction() as uow:
            (marked,) = await uow.positions.mark("005930", Decimal(100), MORNING, equity=Decimal(7000))
        assert marked.exposure_pct == Decimal("0.042857")
        shares = []
        async with FillWriter(book) as writer:
            for number, (side, qty) in enumerate((("SELL", "2.99999"), ("BUY", "2.99999"), ("SELL", "5"))):
                one = fill(side=side, qty=Decimal(qty), execution_id=f"w{number}")
                shares.append((await writer.record_fill(one)).position.exposure_pct)
        async with book.transaction() as uow:
            (booked,) = await uow.ledger.record_fills([fill(qty=Decimal(2), execution_id="r")])
            held = await uow.positions.get_position("005930")
        assert shares == [Decimal(text) for text in ("0.000000", "0.042857", "-0.028571")]
        assert booked.position.exposure_pct == held.exposure_pct == 0
        async with book.transaction() as uow:
            await uow.positions.mark("005930", Decimal(100), MORNING + SECOND)
            last = await uow.ledger.record_fill(fill(execution_id="u"))
        assert last.position.exposure_value == 100
        assert last.position.exposure_pct is None


async def test_a_share_too_large_for_its_column_is_none(database_url: URL) -> None:
    async with Database(database_url) as book:
        await by_record_fill(book, [fill()], Path())
        async with book.transaction() as uow:
            await uow.positions.mark("005930", Decimal(100), MORNING, equity=Decimal("0.001"))
        async with FillWriter(book) as writer:
            shares = [
                (await writer.record_fill(fill(execution_id=f"w{number}", qty=Decimal(qty)))).position.exposure_pct
                for number, qty in enumerate((8, 1, 1))
            ]
        assert shares == [900_000, None, None]


@pytest.mark.parametrize("page", ["docs/book.md"])
def test_the_example_of_a_page_books_its_fill(database_url: URL, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QTS_DATABASE_URL", database_url.render_as_string(hide_password=False))
    example = next(block for block in blocks("python", page) if "record_fill(" in block.text)
    names: dict[str, Any] = {}

    async def stored_ids() -> list[str]:
        async with Database(database_url) as book:
            return [row[0] for row in await stored(book)]

    with asyncio.Runner() as runner:
        for duplicate in (False, True):
            run_python(runner, example, names)
            assert names["booked"].duplicate == duplicate
            assert names["booked"].position.qty == 10
        assert runner.run(stored_ids()) == ["20261120/06010/0000117057/10"]
