"""The arithmetic of positions, against a reference in whole numbers and fractions."""

from __future__ import annotations

import decimal
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qts_data.contracts import round_money
from qts_data.rules.average_cost import FLAT, Fold, Holding, Trade, apply
from tests.fixtures import reference_book as reference
from tests.fixtures.reference_book import UNIT, ReferenceBook, units

if TYPE_CHECKING:
    from fractions import Fraction

numbers = st.one_of(st.integers(1, 50).map(lambda n: n * UNIT), st.integers(1, 10**6), st.integers(1, 10**17))
trades = st.builds(
    reference.Trade,
    qty=st.builds(lambda size, side: size * side, numbers, st.sampled_from([-1, 1])),
    price=st.one_of(st.just(0), numbers),
)


def money(value: int) -> Decimal:
    return Decimal(value).scaleb(-8)


def made(trade: reference.Trade) -> Trade:
    return Trade(money(trade.qty), money(trade.price), money(trade.amount))


def same(holding: Holding, state: reference.State) -> bool:
    figures = holding.qty, holding.cost_basis, holding.realized_pnl, holding.avg_price
    return tuple(map(units, figures)) == (state.qty, state.cost, state.realized, state.average)


@given(st.lists(trades, max_size=12))
def test_any_trades_equal_the_reference_to_the_last_digit(sequence: list[reference.Trade]) -> None:
    """Profit minus cost equals the cash flow, and a closed position has no cost."""
    holding = FLAT
    for trade in sequence:
        holding = apply(holding, made(trade))
    assert same(holding, reference.fold(sequence))
    cash = -sum(trade.amount for trade in sequence)
    assert units(holding.realized_pnl) - units(holding.cost_basis) == cash
    if not holding.qty:
        assert holding.cost_basis == holding.avg_price == 0


@given(st.lists(trades, max_size=12), st.integers(1, 6))
def test_the_callers_decimal_context_changes_nothing(sequence: list[reference.Trade], precision: int) -> None:
    holding = FLAT
    with decimal.localcontext(prec=precision, rounding=decimal.ROUND_UP):
        for trade in sequence:
            holding = apply(holding, made_exactly(trade))
        average = holding.avg_price
    assert same(holding, reference.fold(sequence))
    assert units(average) == reference.fold(sequence).average


def made_exactly(trade: reference.Trade) -> Trade:
    with decimal.localcontext(prec=60):
        return made(trade)


@st.composite
def events(draw: st.DrawFn) -> list[tuple[str, str | None, reference.Trade | None]]:
    """Fills, busts and corrections in any order, some of them twice: (id, id it refers to, content)."""
    names = [f"F{n}" for n in range(draw(st.integers(1, 5)))]
    known: list[tuple[str, str | None, reference.Trade | None]] = [(name, None, draw(trades)) for name in names]
    for n in range(draw(st.integers(0, 5))):
        target = draw(st.sampled_from(names))
        trade = draw(st.none() | trades)
        name = f"R{n}"
        names.append(name)
        known.append((name, target, trade))
    return draw(st.lists(st.sampled_from(known), max_size=14))


@given(events())
def test_busts_and_corrections_equal_the_right_history(
    sequence: list[tuple[str, str | None, reference.Trade | None]],
) -> None:
    """The fold over ledger entries equals the reference book. Entries that the ledger refuses are left out here."""
    book, fold = ReferenceBook(), Fold()
    ids: dict[str, int] = {}
    gone: set[str] = set()
    for number, (name, target, trade) in enumerate(sequence):
        if name in ids or (target is not None and (target not in ids or target in gone)):
            continue
        if target is None:
            assert trade is not None
            book.fill(name, trade)
            fold.add(number, made(trade))
        else:
            if not book.report(name, target, trade):
                continue
            gone.add(target)
            opposite = Trade(Decimal(1), Decimal(0), Decimal(0))  # the contents of a reversal are not used
            fold.add(1000 + number, opposite, reverses_id=ids[target])
            if trade is not None:
                fold.add(number, made(trade), corrects_id=ids[target])
            else:
                gone.add(name)
        ids[name] = number
        assert same(fold.holding, book.state)


def test_reversal_of_a_fill_before_the_fold_does_nothing() -> None:
    fold = Fold()
    trade = Trade(Decimal(1), Decimal(100), Decimal(100))
    fold.add(7, trade, reverses_id=3)
    assert fold.holding == FLAT
    fold.add(8, trade, corrects_id=3)
    assert fold.holding == Holding(Decimal(1), Decimal(100), Decimal(0))


def test_correction_of_an_omitted_correction_replaces_the_fill() -> None:
    """A chain of corrections whose links are left out still leads to the first fill."""
    fold = Fold()
    fold.add(1, Trade(Decimal(1), Decimal(100), Decimal(100)))
    fold.pass_over(2, corrects_id=1)
    fold.pass_over(3, corrects_id=2)
    fold.add(4, Trade(Decimal(-1), Decimal(0), Decimal(0)), reverses_id=3)
    assert fold.holding == FLAT
    fold.add(5, Trade(Decimal(2), Decimal(100), Decimal(200)), corrects_id=3)
    assert fold.holding == Holding(Decimal(2), Decimal(200), Decimal(0))
    fold.pass_over(7, corrects_id=6)  # of a fill that is left out itself
    fold.add(8, Trade(Decimal(1), Decimal(100), Decimal(100)), corrects_id=7)
    assert fold.holding == Holding(Decimal(3), Decimal(300), Decimal(0))


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        ("0.000000005", "0"),
        ("0.000000015", "0.00000002"),
        ("0.000000025", "0.00000002"),
        ("-0.000000015", "-0.00000002"),
        ("0.0000000150000000000000001", "0.00000002"),
        ("0.0000000250000000000000001", "0.00000003"),
    ],
)
def test_ties_go_to_the_even_neighbour(value: str, rounded: str) -> None:
    assert round_money(Decimal(value)) == Decimal(rounded)


@given(st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6))
def test_money_is_rounded_as_fractions_are(value: Fraction) -> None:
    with decimal.localcontext(prec=80):
        exact = Decimal(value.numerator) / Decimal(value.denominator)
    assert units(round_money(exact)) == round(value * UNIT)
