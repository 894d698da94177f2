"""Ids with their scope, the rules of redelivery, and the ids made for KIS."""

from __future__ import annotations

import dataclasses
import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qts_data.adapters.kis_ids import KisFill, KisFills, KisOrder
from qts_data.contracts import LedgerEntry, Reversal, split_stored_id, stored_execution_id
from qts_data.contracts.ids import SCOPE_KINDS, parse_scope, scope_text
from qts_data.errors import ConfigurationError, InvalidRecord, LedgerConflict
from qts_data.rules.fill_identity import FillIdentity
from tests.fixtures.factories import FillFactory

MORNING = dt.datetime(2026, 11, 20, 0, 0, 1, tzinfo=dt.UTC)  # 09:00:01 in Korea
MIDNIGHT = dt.datetime(2026, 11, 20, 15, tzinfo=dt.UTC)  # in Korea
SECOND = dt.timedelta(seconds=1)
DAY = dt.timedelta(days=1)
ORDER = KisOrder(dt.date(2026, 11, 20), "06010", "0000117057")
PRICE = Decimal(71500)


def fill(**fields: Any) -> LedgerEntry:
    return FillFactory.build(**{"timestamp": MORNING, "side": "BUY", "qty": Decimal(1), "execution_id": "17"} | fields)


names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=12)


@given(
    st.dictionaries(st.sampled_from(["symbol", "order"]), names),
    st.none() | st.dates(min_value=dt.date(1000, 1, 1)),
    st.sampled_from([None, "BUY", "SELL"]),
    names,
)
def test_a_scoped_id_can_be_taken_apart_again(
    parts: dict[str, str], day: dt.date | None, side: str | None, execution_id: str
) -> None:
    given = {**parts, "day": day.isoformat() if day else None, "side": side}
    said = {kind: value for kind, value in given.items() if value is not None}
    stored = stored_execution_id(scope_text(said), execution_id)
    scope, found = split_stored_id(stored)
    if said or not execution_id.startswith("scope:"):
        assert (parse_scope(scope), found) == (said, execution_id)


@given(st.tuples(names, names), st.tuples(names, names))
def test_two_ids_of_two_scopes_are_stored_apart(one: tuple[str, str], other: tuple[str, str]) -> None:
    stored = [stored_execution_id(scope_text({"symbol": symbol}), found) for symbol, found in (one, other)]
    assert (stored[0] == stored[1]) == (one == other)


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"execution_id": "scope:day=2026-11-20/1"}, "execution_id", "marks scopes; give it as id_scope"),
        ({"id_scope": "year=2026"}, "id_scope", "write it as in day=2026-11-20"),
        ({"id_scope": "symbol=A,day=2026-11-20"}, "id_scope", "write it as in"),
        ({"id_scope": "day=20261120"}, "id_scope", "its day must be written as 2026-11-20"),
        ({"id_scope": "side=B"}, "id_scope", "BUY or SELL"),
        ({"id_scope": "symbol="}, "id_scope", "write it as in"),
        ({"id_scope": "symbol=000660"}, "id_scope", "is not of the symbol '005930'"),
        ({"id_scope": "side=SELL", "side": "BUY"}, "id_scope", "is not of the side 'BUY'"),
        ({"id_scope": "order=zzz", "order_id": "7"}, "id_scope", "is not of the order '7'"),
        ({"id_scope": "order=zzz", "order_id": None}, "id_scope", "is not of the order None"),
        ({"id_scope": "order=" + "%" * 200}, "id_scope", "at most 512 fit|write it as in"),
        ({"execution_id": "x" * 250, "id_scope": "order=" + "y" * 256}, "id_scope", "at most 512 fit"),
        ({"execution_id": None, "idempotency_key": "k", "id_scope": "side=BUY"}, "id_scope", "not with an idempotency"),
    ],
)
def test_a_scope_that_cannot_be_stored_is_refused(fields: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidRecord, match=reason) as caught:
        fill(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"time_zone": "Mars"}, "names no time zone"),
        ({"market_zones": {"X": "Mars"}}, "names no time zone"),
        (
            {"id_scopes": {"kis": "year"}},
            "the id scope of 'kis': 'year' is not a scope: write one or more of day, symbol",
        ),
        ({"id_scopes": {"kis": "day,day"}}, "each once"),
        ({"id_scopes": {"kis": ""}}, "is not a scope"),
    ],
)
def test_wrong_rules_are_refused_with_the_reason(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        FillIdentity(**values)


def test_a_declared_scope_becomes_part_of_the_stored_id() -> None:
    rules = FillIdentity(id_scopes={"test": " side, order,symbol,day "}, market_zones={"NASDAQ": "America/New_York"})
    entry = rules.scoped(fill(symbol="A/B,C", order_id="7%"))
    assert entry.stored_execution_id == "scope:day=2026-11-20,symbol=A%2FB%2CC,order=7%25,side=BUY/17"
    assert rules.scoped(entry) is entry
    assert rules.scoped(fill(symbol="A", order_id="7", market="NASDAQ")).id_scope.startswith("day=2026-11-19,")
    other = fill(broker="other")
    assert rules.scoped(other) is other
    with pytest.raises(InvalidRecord, match="order_id: is missing: execution ids of 'test' are unique in the scope"):
        rules.scoped(fill(order_id=None))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (MORNING, MORNING + 23 * DAY / 24, False),
        (MORNING, MIDNIGHT - SECOND, True),
        (MIDNIGHT - 30 * SECOND, MIDNIGHT + 30 * SECOND, True),
        (MIDNIGHT - 30 * SECOND, MIDNIGHT + 31 * SECOND, False),
        (MORNING, MORNING - 400 * DAY, False),
        (MORNING, MORNING + 3 * DAY, False),
    ],
)
def test_fill_times_of_one_day_are_a_redelivery(first: dt.datetime, second: dt.datetime, same: bool) -> None:
    one, other = fill(timestamp=first), fill(timestamp=second)
    assert FillIdentity().is_redelivery(one, other) == FillIdentity().is_redelivery(other, one) == same
    if same:
        FillIdentity().require_same_fill(one, other)
        return
    with pytest.raises(LedgerConflict) as caught:
        FillIdentity().require_same_fill(one, dataclasses.replace(other, fee=Decimal(3), order_id="9"))
    for said in (first, second):
        assert said.isoformat() in str(caught.value)
    assert "fee, order_id differ" in caught.value.reason


def test_the_day_is_that_of_the_zone_of_the_market() -> None:
    rules = FillIdentity(market_zones={"NASDAQ": "America/New_York"})
    evening = dt.datetime(2026, 11, 20, 14, 59, tzinfo=dt.UTC), dt.datetime(2026, 11, 20, 15, 31, tzinfo=dt.UTC)
    assert not rules.is_redelivery(*(fill(timestamp=at) for at in evening))
    assert rules.is_redelivery(*(fill(timestamp=at, market="NASDAQ") for at in evening))


@pytest.mark.parametrize("scope", ["symbol", "day", "symbol,side"])
def test_a_bare_reference_is_completed_by_a_line_only(scope: str) -> None:
    rules = FillIdentity(id_scopes={"test": scope})
    line = fill(side="SELL", execution_id="B7")
    part = {"day": "2026-11-20", "symbol": "005930", "side": "BUY"}
    wanted = stored_execution_id(scope_text({kind: part[kind] for kind in scope.split(",")}), "17")
    assert rules.reference(line, "17") == rules.reference(line, wanted) == wanted
    bust = Reversal(timestamp=MORNING, broker="test", execution_id="B7", reverses="17")
    with pytest.raises(InvalidRecord, match=r"reverses: '17' names no single fill: .* such as 'scope:"):
        rules.scoped_report(bust)
    scoped = rules.scoped_report(dataclasses.replace(bust, reverses=wanted))
    assert scoped.key == rules.scoped(line).key


def test_every_kind_of_scope_is_listed() -> None:
    assert SCOPE_KINDS == ("day", "symbol", "order", "side")


def kis(*parts: tuple[int, str]) -> list[LedgerEntry]:
    return [
        fill(qty=Decimal(qty), price=PRICE, order_id=ORDER.number, execution_id=execution_id)
        for qty, execution_id in parts
    ]


def test_kis_fills_of_3_7_and_3_have_three_ids() -> None:
    fills = KisFills(ORDER)
    made = [fills.notice(Decimal(qty), PRICE, MORNING + qty * SECOND) for qty in (3, 7, 3)]
    assert made == [
        KisFill(ORDER.execution_id(total), Decimal(qty), PRICE) for total, qty in ((3, 3), (10, 7), (13, 3))
    ]
    assert ORDER.execution_id(Decimal("13.00")) == "20261120/06010/0000117057/13"
    assert fills.cumulative == 13


def test_a_lost_kis_notice_comes_with_the_daily_total() -> None:
    fills = KisFills(ORDER)
    fills.notice(Decimal(3), PRICE, MORNING)
    fills.notice(Decimal(3), PRICE, MORNING + 2 * SECOND)  # 7 at 71,600 were between
    missing = fills.total(Decimal(13), 6 * PRICE + 7 * Decimal(71600), MORNING + 5 * SECOND)
    assert missing == KisFill(ORDER.execution_id(13), Decimal(7), Decimal(71600))
    assert fills.total(Decimal(13), Decimal(0), MORNING + 6 * SECOND) is None
    # The notice itself, late, and an answer that is older than a notice.
    assert fills.notice(Decimal(7), Decimal(71600), MORNING + SECOND) is None
    assert fills.notice(Decimal(2), PRICE, MORNING + 9 * SECOND) == KisFill(ORDER.execution_id(15), Decimal(2), PRICE)
    assert fills.total(Decimal(13), Decimal(0), MORNING + 9.5 * SECOND) is None
    assert fills.notice(Decimal(1), PRICE, MORNING + 15 * SECOND) is not None


def test_kis_total_below_the_known_quantity_is_refused() -> None:
    """A notice that came twice looks like an equal fill until the total comes."""
    fills = KisFills(ORDER)
    for _ in range(2):
        assert fills.notice(Decimal(3), PRICE, MORNING) is not None
    with pytest.raises(InvalidRecord, match=r"says 3 for .*, and 6 are known .*reverse_fill"):
        fills.total(Decimal(3), 3 * PRICE, MORNING + SECOND)
    with pytest.raises(ConfigurationError, match="call total"):
        fills.notice(Decimal(3), PRICE, MORNING + 2 * SECOND)
    assert fills.total(Decimal(6), 6 * PRICE, MORNING + 2 * SECOND) is None
    assert fills.notice(Decimal(1), PRICE, MORNING + 3 * SECOND) is not None
    restarted = KisFills(ORDER, kis((3, ORDER.execution_id(3))))
    with pytest.raises(InvalidRecord, match="says 2 for"):
        restarted.total(Decimal(2), 2 * PRICE, MORNING + SECOND)


def test_kis_fills_go_on_from_the_ledger_after_a_total() -> None:
    other = fill(execution_id="20261119/06010/0000117057/9")
    fills = KisFills(ORDER, [*kis((3, ORDER.execution_id(3)), (7, ORDER.execution_id(10))), other])
    with pytest.raises(ConfigurationError, match="call total with the daily query"):
        fills.notice(Decimal(3), PRICE, MORNING)
    assert fills.total(Decimal(10), 10 * PRICE, MORNING + SECOND) is None
    assert fills.notice(Decimal(3), PRICE, MORNING + 3 * SECOND) == KisFill(ORDER.execution_id(13), Decimal(3), PRICE)
    with pytest.raises(InvalidRecord, match="add up to 7, the last id says 10"):
        KisFills(ORDER, kis((7, ORDER.execution_id(10))))
    with pytest.raises(InvalidRecord, match="amount: 1 is less than"):
        KisFills(ORDER, kis((3, ORDER.execution_id(3)))).total(Decimal(4), Decimal(1), MORNING)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.booleans(), st.integers(70000, 70009)), max_size=12),
)
def test_kis_streams_with_losses_and_restarts_end_exact(steps: list[tuple[int, bool, bool, int]]) -> None:
    """Quantity and amount are those of the broker after any lost notices and restarts."""
    fills, ledger = KisFills(ORDER), dict[str, LedgerEntry]()
    total, amount = Decimal(0), Decimal(0)

    def book(made: KisFill | None) -> None:
        if made is not None:
            assert made.execution_id not in ledger
            ledger[made.execution_id] = fill(qty=made.qty, price=made.price, execution_id=made.execution_id)

    for number, (qty, lost, restarts, price) in enumerate(steps):
        at = MORNING + 10 * number * SECOND
        total, amount = total + qty, amount + qty * price
        if not lost:
            book(fills.notice(Decimal(qty), Decimal(price), at))
        if restarts:
            fills = KisFills(ORDER, ledger.values())
            book(fills.total(total, amount, at + SECOND))
    book(fills.total(total, amount, MORNING + DAY))
    assert sum(one.qty for one in ledger.values()) == total == fills.cumulative
    assert abs(sum(one.qty * one.price for one in ledger.values()) - amount) < Decimal("0.00001")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ((MORNING, "06010", "1"), "day"), (("2026", "06010", "1"), "day"), ((ORDER.day, "", "1"), "branch"),
        ((ORDER.day, "06010", "1/2"), "number"),
    ],
)  # fmt: skip
def test_an_order_that_kis_cannot_have_is_refused(values: Any, field: str) -> None:
    with pytest.raises(InvalidRecord) as caught:
        KisOrder(*values)
    assert caught.value.field == field


def test_other_ids_are_none_of_the_order() -> None:
    for other in (None, "1", f"{ORDER.execution_id(1)}0.0", ORDER.execution_id(3) + "/reversal", "20261120/06010/1/3"):
        assert ORDER.cumulative_of(other) is None
    with pytest.raises(InvalidRecord, match="cumulative"):
        ORDER.execution_id(0)
