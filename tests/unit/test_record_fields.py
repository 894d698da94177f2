"""Each field of a record stands in every list that writes the record, or in a list of exceptions with reasons."""

from __future__ import annotations

import datetime as dt
import inspect
import re
from dataclasses import MISSING, fields, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from qts_data import models
from qts_data.cache.codec import ORDER, POSITION, QUOTE, RecordCodec
from qts_data.contracts import (
    OHLCV,
    BookedEntry,
    Correction,
    ExecutionLog,
    LedgerEntry,
    OrderState,
    Position,
    Quote,
    Reversal,
    RiskLimit,
    StrategyParameter,
    TickData,
)
from qts_data.contracts.fields import Stored, columns_of, defaulted_fields, sheet_columns, stored, stored_fields
from qts_data.contracts.market import stored_tick
from qts_data.errors import LedgerConflict
from qts_data.importers.tables import DAILY_BARS, LEDGER, POSITIONS, RISK_LIMITS, STRATEGIES, Defaults
from qts_data.moving.consistency.sides import item_of
from qts_data.repositories.book.booking import WRITE_POSITIONS
from qts_data.repositories.book.ledger_rows import COLUMNS, booked_entry
from qts_data.repositories.book.reports import PENDING_COLUMNS
from qts_data.repositories.execution.logs import _COLUMNS as LOG_COLUMNS
from qts_data.repositories.market.bars.daily import _TABLE as DAILY
from qts_data.repositories.market.bars.vendor import _TABLE as MINUTES
from qts_data.repositories.market.ticks.batch import COLUMNS as TICK_COLUMNS
from qts_data.repositories.market.ticks.copy.records import numbered
from qts_data.repositories.market.ticks.ordinals import Ordinals
from qts_data.rules.average_cost import FLAT, Trade, apply
from qts_data.rules.booked import Booked
from qts_data.rules.fill_identity import FillIdentity
from qts_data.writers.spool.format import encode_tick
from tests.fixtures.fix_cli import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

AT = dt.datetime(2026, 11, 20, 1, 2, 3, 4567, tzinfo=dt.UTC)
FILL = LedgerEntry(
    timestamp=AT, account="second", symbol="005930", market="KRX", side="SELL", qty=Decimal("3.5"), price=Decimal(71),
    fee=Decimal("-0.25"), currency="KRW", fee_currency="USD", strategy_tag="s", order_id="o", broker="kis",
    execution_id="E", id_scope="day=2026-11-20",
)  # fmt: skip
POSITION_HELD = Position(
    account="second", symbol="005930", market="KRX", currency="KRW", qty=Decimal(1), avg_price=Decimal(2),
    cost_basis=Decimal(3), realized_pnl=Decimal(4), mark_price=Decimal(5), exposure_value=Decimal(6),
    exposure_pct=Decimal(7), unrealized_pnl=Decimal(8), marked_at=AT, last_ledger_id=9,
    updated_at=AT + dt.timedelta(seconds=1),
)  # fmt: skip
TICK = TickData(
    time=AT, symbol="005930", price=Decimal(1), volume=Decimal(2), source="feed", seq=3, bid=Decimal(4), ask=Decimal(5)
)
BAR = OHLCV(
    time=AT, symbol="005930", source="s", open=Decimal(2), high=Decimal(4), low=Decimal(1), close=Decimal(3),
    volume=Decimal(5), tick_count=6,
)  # fmt: skip


def table(model: Any) -> list[str]:
    return [column.name for column in model.__table__.columns]


def compared(record: object) -> list[str]:
    return list(item_of(record, dt.UTC).fields)


_NOT_BY_BOOKING = "a valuation is written by mark; a fill moves it in the same statement"
PLACES: list[tuple[type[Any], str, Collection[str], Mapping[str, str]]] = [
    (Position, "table", table(models.Position), {"marked_equity": "of the valuation; a position says its share of it"}),
    (Position, "sheet", POSITIONS.fields, {}),
    (
        Position,
        "statement that books",
        re.findall(r"\w+", WRITE_POSITIONS.sql.decode().partition("(")[2].partition(")")[0]),
        dict.fromkeys(
            ("mark_price", "exposure_value", "exposure_pct", "unrealized_pnl", "marked_at"), _NOT_BY_BOOKING
        ),
    ),
    (
        OHLCV,
        "daily table",
        (*DAILY.key, *DAILY.figures),
        {"source": "the exchange publishes one bar a day", "tick_count": "the exchange does not say it"},
    ),
    (OHLCV, "table of vendors' minutes", (*MINUTES.key, *MINUTES.figures), {}),
    (
        OHLCV,
        "sheet",
        DAILY_BARS.fields,
        {
            "time": "is the start of the date", "date": "gives the time", "market": "decides how a code is read",
            "source": "of the exchange", "tick_count": "the exchange does not say it",
        },
    ),
    (
        OHLCV,
        "comparison",
        compared(BAR),
        {
            "time": "is the key", "symbol": "is the key", "source": "of the exchange",
            "tick_count": "the exchange does not say it",
        },
    ),
    (TickData, "table", table(models.Tick), {}),
    (TickData, "COPY", TICK_COLUMNS.split(", "), {}),
    (TickData, "record as it is stored", inspect.signature(stored_tick).parameters, {}),
    (ExecutionLog, "table", table(models.ExecutionLog), {}),
    (ExecutionLog, "COPY", LOG_COLUMNS, {}),
    (RiskLimit, "table", table(models.RiskConfig), {}),
    (RiskLimit, "sheet", RISK_LIMITS.fields, {}),
    (StrategyParameter, "table", table(models.StrategyParameter), {"value_type": "the value says its type"}),
    (StrategyParameter, "sheet", STRATEGIES.fields, {"value_type": "the value says its type"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "place", "names", "reasons"), PLACES, ids=[f"{p[0].__name__}-{p[1]}" for p in PLACES]
)
def test_each_field_stands_in_each_list(
    record: type[Any], place: str, names: Collection[str], reasons: Mapping[str, str]
) -> None:
    known = {one.name for one in fields(record)}
    assert known ^ set(names) == set(reasons), place


def test_the_examples_set_every_field() -> None:
    """A round trip proves nothing about a field that its example leaves at the default."""
    for record in (FILL, POSITION_HELD, TICK, BAR):
        for one in fields(record):
            if one.name == "idempotency_key":
                continue  # stands in the place of an execution id
            assert getattr(record, one.name) not in {None, one.default}, one.name


def test_a_row_of_the_ledger_comes_back_field_by_field() -> None:
    """`Booked.row` is written by hand in the order of the columns."""
    before = apply(FLAT, Trade.of(FILL))
    after = apply(before, Trade.of(FILL))
    booked = Booked.of(7, FILL, before, after, reverses_id=8, corrects_id=9)
    found = booked_entry([*booked.row(), AT.isoformat()])
    assert found == BookedEntry(
        id=7, entry=FILL, reverses_id=8, corrects_id=9, realized_pnl=booked.realized_pnl, position_qty=after.qty,
        position_avg_price=booked.avg_price, position_cost_basis=after.cost_basis,
        position_realized_pnl=after.realized_pnl, recorded_at=AT,
    )  # fmt: skip
    keyed = LedgerEntry(
        timestamp=AT, symbol="A", market="KRX", side="BUY", qty=Decimal(1), price=Decimal(2), currency="KRW",
        broker="kis", idempotency_key="K",
    )  # fmt: skip
    assert booked_entry([*booked._replace(entry=keyed).row(), AT.isoformat()]).entry == keyed


def test_models_have_the_columns_that_records_declare() -> None:
    types = {"text": sa.Text, "numeric": sa.Numeric, "timestamptz": sa.DateTime, "bigint": sa.BigInteger}
    extra = {"t_ledger": set(), "pending_reports": {"refers_to", "received_at"}, "positions": {"marked_equity"}}
    for record, model in (
        (BookedEntry, models.LedgerEntry),
        (LedgerEntry, models.PendingReport),
        (Position, models.Position),
    ):
        found = model.__table__.columns
        declared = columns_of(record)
        assert {column.name for column in found} - declared.keys() == extra[model.__tablename__]
        for name, one in declared.items():
            assert isinstance(found[name].type, types[one.sql]), name
            # A report of a reversal has no fill, so these columns are empty.
            if model is not models.PendingReport:
                assert found[name].nullable == one.null, name
    assert list(COLUMNS) == list(columns_of(BookedEntry))
    assert set(PENDING_COLUMNS) == {*columns_of(LedgerEntry), "refers_to"}


def test_settings_stand_for_fields_that_have_a_default() -> None:
    settings = {one.name for one in fields(Defaults)}
    for record in (LedgerEntry, Position):
        assert set(defaulted_fields(record)) <= settings
    assert LEDGER.fields == (*sheet_columns(LedgerEntry), "reverses")


def test_every_content_of_a_fill_distinguishes_two_fills() -> None:
    """A fill that differs in one field is another fill. Only its time and the form of its id may differ."""
    others: dict[str, Any] = {
        "account": "third", "symbol": "000660", "market": "NXT", "side": "BUY", "qty": Decimal(4),
        "price": Decimal(72), "fee": Decimal(1), "currency": "USD", "fee_currency": "KRW", "strategy_tag": None,
        "order_id": "p", "broker": "kiwoom",
    }  # fmt: skip
    content = {name for name, one in stored_fields(LedgerEntry).items() if one.content}
    assert content == {*others, "amount"}  # the amount follows quantity and price
    given = {one.name: getattr(FILL, one.name) for one in fields(FILL) if one.name != "amount"}
    for name, value in others.items():
        assert not FillIdentity().is_redelivery(FILL, LedgerEntry(**given | {name: value})), name
    assert FillIdentity().is_redelivery(FILL, LedgerEntry(**given))


def test_conflict_of_two_reports_names_the_differing_fields() -> None:
    def refused(first: Reversal | Correction, second: Reversal | Correction) -> str:
        with pytest.raises(LedgerConflict) as caught:
            FillIdentity().require_same_report(first, second)
        return str(caught.value)

    bust = Reversal(timestamp=AT, broker="kis", execution_id="B", reverses="E")
    right = Correction(entry=FILL, corrects="scope:day=2026-11-20/A")
    assert "reverses differs" in refused(bust, replace(bust, reverses="F"))
    assert "one reverses the fill, the other corrects it" in refused(bust, right)
    moved = replace(right, entry=replace(FILL, fee=Decimal(9), order_id="p"), corrects="A")
    assert "fee, order_id, corrects differ" in refused(right, moved)
    FillIdentity().require_same_report(right, replace(right, entry=replace(FILL, timestamp=AT.replace(microsecond=0))))


def test_a_tick_keeps_every_field_on_its_way() -> None:
    values = {getattr(TICK, one.name) for one in fields(TICK)}
    assert set(next(iter(numbered([TICK], Ordinals(strict=False))))) == values
    payload = encode_tick(TICK).decode().split("\x1f")
    assert payload == [
        value.isoformat(timespec="microseconds") if isinstance(value, dt.datetime) else str(value)
        for value in (getattr(TICK, one.name) for one in fields(TICK))
    ]


def test_a_cached_record_comes_back_field_by_field() -> None:
    quote = Quote(symbol="A", price=Decimal(1), quoted_at=AT, bid=Decimal(2), ask=Decimal(3))
    order = OrderState(
        order_id="o", symbol="A", account="second", side="BUY", qty=Decimal(1), filled_qty=Decimal(2), status="open",
        updated_at=AT, price=Decimal(3),
    )  # fmt: skip
    cached: list[tuple[RecordCodec[Any], Any]] = [(QUOTE, quote), (ORDER, order), (POSITION, POSITION_HELD)]
    for codec, record in cached:
        for one in fields(record):
            assert getattr(record, one.name) not in {None, one.default}, one.name
        assert codec.decode(codec.encode(record)) == record


def test_a_field_without_a_declaration_is_named() -> None:
    with pytest.raises(TypeError, match=r"Quote\.symbol does not declare how it is stored"):
        stored_fields(Quote)


# A table in docs/book.md is made of the declaration; write what this test shows.


def described(name: str, one: Stored, default: object) -> str:
    sheet = "none" if one.sheet is None else ", ".join((name, *one.sheet.headers))
    if one.sheet is None:
        without = "in `execution_id`"
    elif one.source is not None:
        without = "no fill is written"
    elif one.sheet.required:
        without = "the sheet is refused"
    elif one.sheet.default:
        without = "a setting stands for it"
    elif one.sheet.losable:
        without = "not written"
    else:
        without = "only the default is written"
    kept = f"{one.sql}{' or NULL' if one.null else ''}" if one.inside is None else f"in `{one.inside}`"
    needed = "required" if default is MISSING else "optional"
    same = "key" if one.key else "content" if one.content else "same trading day"
    return f"| `{name}` | {needed} | {kept} | {same} | {'yes' if one.compared else 'no'} | {sheet} | {without} |"


def test_the_documented_fields_are_the_declared_ones() -> None:
    rows = [described(one.name, stored_fields(LedgerEntry)[one.name], one.default) for one in fields(LedgerEntry)]
    text = (ROOT / "docs" / "book.md").read_text(encoding="utf-8")
    section = text.partition("## Fields of a fill")[2].partition("\n## ")[0]
    written = [line for line in section.splitlines() if line.startswith("| `")]
    assert written == rows


def test_a_declaration_is_read_as_it_was_written() -> None:
    assert stored("text", null=True)["stored"] == Stored(sql="text", null=True)
