"""Ordinals of ticks without a seq: counted over a whole source, in bounded memory, as records and as columns."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qts_data.contracts import TickData
from qts_data.errors import InvalidRecord
from qts_data.repositories.market.ticks.copy.column_batch import ColumnOrdinals
from qts_data.repositories.market.ticks.copy.record_columns import RecordColumns
from qts_data.repositories.market.ticks.ordinals import Ordinals

START = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)


def tick(symbol: str, second: int) -> TickData:
    return TickData(
        time=START + dt.timedelta(seconds=second), symbol=symbol, price=Decimal(1), volume=Decimal(1), source="x"
    )


def number(ordinals: ColumnOrdinals, ticks: list[TickData]) -> list[int]:
    gathered = RecordColumns()
    gathered.add(ticks)
    columns = gathered.columns()
    ordinals.number(columns)
    return [int(seq) for seq in columns.seq]


places = st.tuples(st.sampled_from("AB"), st.integers(0, 12))


@given(batches=st.lists(st.lists(places, min_size=1, max_size=8), min_size=1, max_size=30))
def test_ordinals_count_over_all_batches(batches: list[list[tuple[str, int]]]) -> None:
    columns, records = ColumnOrdinals(), Ordinals()
    for batch in batches:
        ticks = [tick(*place) for place in batch]
        assert number(columns, ticks) == [records.next(one.symbol, one.time, one.source) for one in ticks]


@given(remembered=st.integers(1, 9), batches=st.lists(st.lists(places, min_size=1, max_size=8), min_size=1))
def test_evicted_instant_is_refused_and_never_miscounted(batches: list[list[tuple[str, int]]], remembered: int) -> None:
    """Random batches: every number equals the unbounded count, or the batch is refused."""
    ordinals, every = ColumnOrdinals(remembered), Ordinals()
    for batch in batches:
        ticks = [tick(*place) for place in batch]
        wanted = [every.next(one.symbol, one.time, one.source) for one in ticks]
        try:
            found = number(ordinals, ticks)
        except InvalidRecord:
            return
        assert found == wanted


def test_feed_in_small_groups_needs_little_memory() -> None:
    """The instants remembered and the steps of a group stay bounded, however long the feed."""
    ordinals = ColumnOrdinals(300, strict=False)
    for group in range(800):
        # Each group cuts through an instant.
        assert number(ordinals, [tick("A", group), tick("A", group + 1), tick("B", group)]) == [int(group > 0), 0, 0]
        assert ordinals.instants <= 300
        assert ordinals.generations < 60
    # Without `strict`, evicted instants are counted from the beginning.
    assert number(ordinals, [tick("A", 0), tick("A", 0)]) == [0, 1]
    strict = ColumnOrdinals(300)
    for group in range(400):
        number(strict, [tick("A", group)])
    with pytest.raises(InvalidRecord, match="more than 300 instants after"):
        number(strict, [tick("A", 0)])
    assert number(strict, [tick("A", 399)]) == [1]


def test_evicted_records_are_counted_anew_if_not_strict() -> None:
    ordinals = Ordinals(4, strict=False)
    for second in range(20):
        assert ordinals.next("A", START + dt.timedelta(seconds=second), "x") == 0
    assert ordinals.next("A", START, "x") == 0
