"""Rows of a binary COPY, read by NumPy and by the standard library, against rows encoded here."""

from __future__ import annotations

import asyncio
import datetime as dt
import struct
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qts_data import any_time
from qts_data.contracts import TickData
from qts_data.repositories.market.ticks.copy.decoding import decode_columns, decode_records
from qts_data.repositories.market.ticks.copy.decoding_columns import COPIED, RECORD, Layout, Words, read_rows

EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
Numbers = tuple[Decimal, Decimal, Decimal | None, Decimal | None]

# Price 7.00000008 has the digits 7, 0, 8, with which every row begins. This volume continues the likeness.
LIKE_A_BEGINNING: Numbers = (Decimal("7.00000008"), Decimal("1000100010001000.00000004"), None, Decimal(1))


def numeric(value: Decimal | None) -> bytes:
    """Encode a number as numeric_send does."""
    if value is None:
        return struct.pack(">i", -1)
    units = abs(int(value.scaleb(8)))
    digits = []
    while units:
        units, digit = divmod(units, 10_000)
        digits.append(digit)
    weight = len(digits) - 3 if digits else 0
    digits.reverse()
    while digits and not digits[-1]:
        digits.pop()
    sign = 0x4000 if value < 0 else 0
    body = struct.pack(f">Hhhh{len(digits)}h", len(digits), weight, sign, 8, *digits)
    return struct.pack(">i", len(body)) + body


def row(time: int, seq: int, feed: int, numbers: Numbers) -> bytes:
    return struct.pack(">h iq iq ii", 7, 8, time, 8, seq, 4, feed) + b"".join(map(numeric, numbers))


def record(time: int, seq: int, feed: int, numbers: Numbers) -> bytes:
    """Encode a row as record_send does."""
    fields = struct.pack(">i iiq iiq iii", 7, 1184, 8, time, 20, 8, seq, 23, 4, feed)
    return fields + b"".join(struct.pack(">i", 1700) + numeric(number) for number in numbers)


def read_all_ways(rows: list[tuple[int, int, int, Numbers]], sources: list[str]) -> list[TickData]:
    """Decode by all three ways and from both layouts, and assert that they agree."""
    found = read_layout(b"".join(row(*one) for one in rows), sources, COPIED)
    assert read_layout(b"".join(record(*one) for one in rows), sources, RECORD) == found
    return found


def read_layout(data: bytes, sources: list[str], layout: Layout) -> list[TickData]:
    """Decode by all three ways, and assert that they agree."""
    by_numpy = asyncio.run(decode_records(data, "A", sources, layout))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qts_data.repositories.market.ticks.copy.decoding.is_installed", lambda _: False)
        assert asyncio.run(decode_records(data, "A", sources, layout)) == by_numpy
    records, last, strange = by_numpy
    batch, *rest = asyncio.run(decode_columns(data, "A", sources, layout))
    assert rest == [last, strange]
    assert [TickData(**one) for one in batch.to_pylist()] == records if batch is not None else not records
    assert all(one.price.as_tuple().exponent == -8 for one in records)
    return list(records)


def decimals(places: int) -> st.SearchStrategy[Decimal]:
    """Numbers of every length, down to the last of so many digits."""
    return st.integers(0, places).flatmap(lambda size: st.integers(-(10**size) + 1, 10**size - 1)).map(
        lambda units: Decimal(units).scaleb(-8)
    )  # fmt: skip


prices = decimals(18)
likely = st.sampled_from([*LIKE_A_BEGINNING[:2], Decimal(0), Decimal("922.33720368"), Decimal("92233720368.54775808")])
numbers = st.tuples(
    prices | likely.filter(lambda value: value < 10**10), decimals(28).map(abs) | likely,
    st.none() | prices, st.none() | prices,
)  # fmt: skip


@given(
    values=st.lists(
        st.tuples(st.integers(0, 10**15), st.integers(0, 2**63 - 1), st.integers(1, 2), numbers), min_size=1
    )
)
def test_rows_of_any_numbers_are_read_to_the_last_digit(values: list[tuple[int, int, int, Numbers]]) -> None:
    # Some of these times are beyond the plausible range.
    with any_time():
        found = read_all_ways(values, ["x", "y"])
        assert found == [
            TickData(
                time=EPOCH + dt.timedelta(microseconds=time), symbol="A", source="xy"[feed - 1], seq=seq,
                price=price, volume=volume, bid=bid, ask=ask,
            )
            for time, seq, feed, (price, volume, bid, ask) in values
        ]  # fmt: skip


def test_bytes_that_resemble_the_start_of_a_row_are_not_one() -> None:
    rows = [(n, n, 1, LIKE_A_BEGINNING) for n in range(3)]
    data = b"".join(row(*one) for one in rows)
    words = Words(data)
    assert len(words.likely_beginnings()) == 2 * len(rows)
    assert words.columns(words.likely_beginnings()) is None
    assert len(words.beginnings()) == len(rows)
    found = [(tick.price, tick.volume, tick.bid, tick.ask) for tick in read_all_ways(rows, ["x"])]
    assert found == [LIKE_A_BEGINNING] * 3


def test_rows_end_at_the_first_of_an_unknown_source() -> None:
    one: Numbers = (Decimal(1), Decimal(1), None, None)
    assert [tick.seq for tick in read_all_ways([(1, 1, 1, one), (1, 2, 0, one), (1, 3, 1, one)], ["x"])] == [1]
    assert read_all_ways([(1, 1, 0, one)], ["x"]) == []


@pytest.mark.parametrize("cut", [2, 40, 60])
def test_half_a_row_is_refused(cut: int) -> None:
    data = row(1, 1, 1, LIKE_A_BEGINNING)
    with pytest.raises(ValueError, match="not whole rows"):
        read_rows(data + data[:cut])
