"""Batches made from columns: Arrow as input, checks and numbering with NumPy, binary COPY as output.

Every step is exact. Prices and volumes are integers of 1/100,000,000 from the first check to the last byte. Any type
other than decimals and integers is refused.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, fields
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from qts_data.contracts.checks import check_count, check_price, check_source, check_symbol, check_volume, shown
from qts_data.contracts.instants import EARLIEST, latest_plausible, plausible
from qts_data.contracts.leniency import any_time_allowed
from qts_data.errors import InvalidRecord
from qts_data.extras import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from qts_data.repositories.market.ticks.latest import LatestTime

Array: TypeAlias = Any
"""A NumPy or Arrow array. Both libraries are optional."""

__all__ = ["Columns", "read_columns", "with_eight_places"]

MICROSECONDS: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
# A context of our own: the caller's may round.
_EXACT: Final = Context(prec=40, traps=[Inexact, InvalidOperation])
_EIGHT_PLACES: Final = Decimal("0.00000001")
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_FIRST_PLAUSIBLE: Final = (EARLIEST - _EPOCH) // _MICROSECOND
_MAX_PRICE: Final = 10**18
_MAX_VOLUME: Final = 10**28
_EARLIEST: Final = int(dt.datetime(1, 1, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000
_LATEST: Final = int(dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC).timestamp()) * 1_000_000 + 999_999


@dataclass(slots=True)
class Columns:
    """Checked ticks as NumPy arrays of one length.

    Attributes:
        symbols: The distinct symbols.
        symbol: Index into `symbols`.
        sources: The distinct feeds.
        source: Index into `sources`.
        time: Microseconds since 1970 UTC.
        seq: Sequence number; 0 if `counted`.
        counted: True for each tick without a seq of the feed.
        price: In 1/100,000,000.
        volume: In 1/100,000,000, as Python integers if 64 bits are not enough.
        bid: In 1/100,000,000.
        has_bid: True for each tick with a bid.
        ask: In 1/100,000,000.
        has_ask: True for each tick with an ask.
    """

    symbols: list[str]
    sources: list[str]
    symbol: Array
    source: Array
    time: Array
    seq: Array
    counted: Array
    price: Array
    volume: Array
    bid: Array
    has_bid: Array
    ask: Array
    has_ask: Array

    def __len__(self) -> int:
        return len(self.time)

    def take(self, index: Array) -> Columns:
        """Return the rows at these positions, or where a mask is true."""
        taken = {
            field.name: getattr(self, field.name)[index]
            for field in fields(self)
            if field.name not in {"symbols", "sources"}
        }
        return Columns(symbols=self.symbols, sources=self.sources, **taken)


class _Faults:
    """The first error of each bad row."""

    def __init__(self, size: int) -> None:
        self._numpy = require("numpy")
        self.bad = self._numpy.zeros(size, dtype=bool)
        self._reasons: dict[int, InvalidRecord] = {}

    def add(self, mask: Array, complain: Callable[[int], InvalidRecord]) -> None:
        if not mask.any():
            return
        for index in self._numpy.flatnonzero(mask & ~self.bad).tolist():
            self._reasons[index] = complain(index)
        self.bad |= mask

    def in_order(self, first_row: int) -> list[InvalidRecord]:
        """Return the errors with their rows, counted from 1."""
        return [self._reasons[index].at(first_row + index) for index in sorted(self._reasons)]


def read_columns(
    batch: Array,
    *,
    first_row: int = 1,
    source: str | None = None,
    reject: Callable[[InvalidRecord], None] | None = None,
    latest: LatestTime | None = None,
) -> tuple[Columns, int]:
    """Check a record batch.

    Args:
        batch: An Arrow RecordBatch with columns `time` (timestamp with a zone), `symbol`, `price` and `volume`
            (decimals or integers); `source`, `seq`, `bid` and `ask` may be missing.
        first_row: Number of its first row in the input.
        source: Feed of rows whose batch has no column `source`; '' if None.
        reject: Called with the error of each bad row, in order; None raises the first.
        latest: Limit after which rows are refused; None accepts any time.

    Returns:
        The valid rows, in order, and the number of bad ones.

    Raises:
        InvalidRecord: A column is missing or of a type that is not exact; or, without `reject`, a row is bad.
    """
    numpy = require("numpy")
    pyarrow = require("pyarrow")
    names = set(batch.schema.names)
    for name in ("time", "symbol", "price", "volume"):
        if name not in names:
            raise InvalidRecord(field=name, reason=f"the column is missing; the columns are {sorted(names)}")
    unknown = names - {"time", "symbol", "source", "seq", "price", "volume", "bid", "ask"}
    if unknown:
        raise InvalidRecord(field=min(unknown), reason="tick_data has no such column; drop or rename it")
    size = len(batch)
    faults = _Faults(size)
    symbols, symbol = _texts("symbol", batch.column("symbol"), check_symbol, faults)
    if "source" in names:
        sources, feed = _texts("source", batch.column("source"), check_source, faults)
    else:
        check_source(source or "")
        sources, feed = [source or ""], numpy.zeros(size, dtype=numpy.int32)
    time = _times(batch.column("time"), faults)
    if latest is not None:
        _refuse_ahead(time, latest, faults)
    nothing = pyarrow.nulls(size)
    seq, has_seq = _counts(batch.column("seq") if "seq" in names else nothing, faults)
    price, has_price = _decimals("price", batch.column("price"), _MAX_PRICE, check_price, faults)
    faults.add(~has_price, lambda _: InvalidRecord(field="price", reason="is missing"))
    volume, has_volume = _decimals(
        "volume", batch.column("volume"), _MAX_VOLUME, lambda _, value: check_volume("volume", value), faults
    )
    faults.add(~has_volume, lambda _: InvalidRecord(field="volume", reason="is missing"))
    faults.add(
        numpy.asarray(volume < 0, dtype=bool),
        lambda index: InvalidRecord(field="volume", reason=f"{Decimal(int(volume[index])).scaleb(-8)} is below zero"),
    )
    bid, has_bid = _decimals("bid", batch.column("bid") if "bid" in names else nothing, _MAX_PRICE, check_price, faults)
    ask, has_ask = _decimals("ask", batch.column("ask") if "ask" in names else nothing, _MAX_PRICE, check_price, faults)
    columns = Columns(
        symbols=symbols,
        sources=sources,
        symbol=symbol,
        source=feed,
        time=time,
        seq=seq,
        counted=~has_seq,
        price=price,
        volume=volume,
        bid=bid,
        has_bid=has_bid,
        ask=ask,
        has_ask=has_ask,
    )
    complaints = faults.in_order(first_row)
    if not complaints:
        return columns, 0
    if reject is None:
        raise complaints[0]
    for complaint in complaints:
        reject(complaint)
    return columns.take(~faults.bad), len(complaints)


def _texts(field: str, array: Array, check: Callable[[str], None], faults: _Faults) -> tuple[list[str], Array]:
    numpy, pyarrow = require("numpy"), require("pyarrow")
    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        # Polars' categories are string views, and Arrow does not decode those.
        values = array.dictionary
        if pyarrow.types.is_string_view(values.type):
            values = values.cast(pyarrow.large_string())
        array = pyarrow.DictionaryArray.from_arrays(array.indices, values).dictionary_decode()
        kind = array.type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind)):
        raise InvalidRecord(field=field, reason=f"is {kind}; give text")
    if pyarrow.types.is_string_view(kind):
        array = array.cast(pyarrow.large_string())
    encoded = array.dictionary_encode()
    distinct: list[str] = encoded.dictionary.to_pylist()
    complaints: dict[int, InvalidRecord] = {}
    for code, value in enumerate(distinct):
        try:
            check(value)
        except InvalidRecord as error:
            complaints[code] = error
            # No remaining row has this value, and the longest value sets the width of all rows.
            distinct[code] = ""
    present = _valid(array)
    faults.add(~present, lambda _: InvalidRecord(field=field, reason="is missing"))
    codes = numpy.asarray(encoded.indices.fill_null(0), dtype=numpy.int32)
    if complaints:
        faults.add(
            numpy.isin(codes, list(complaints)) & present,
            lambda index: complaints[int(codes[index])],
        )
    return distinct, codes


def _times(array: Array, faults: _Faults) -> Array:
    numpy, pyarrow = require("numpy"), require("pyarrow")
    kind = array.type
    if not pyarrow.types.is_timestamp(kind):
        raise InvalidRecord(field="time", reason=f"is {kind}; give timestamps with a time zone")
    if kind.tz is None:
        raise InvalidRecord(field="time", reason="has no time zone; give aware instants, such as timestamp[us, UTC]")
    faults.add(~_valid(array), lambda _: InvalidRecord(field="time", reason="is missing"))
    raw = numpy.asarray(array.cast(pyarrow.int64()).fill_null(0))
    if kind.unit == "ns":
        faults.add(
            raw % 1000 != 0,
            lambda index: InvalidRecord(
                field="time", reason=f"{int(raw[index])} ns since 1970 has a fraction of a microsecond"
            ),
        )
        micros = raw // 1000
        outside = numpy.zeros(len(raw), dtype=bool)
    else:
        factor = MICROSECONDS[kind.unit]
        # Checked before the multiplication, which could overflow.
        outside = (raw < _EARLIEST // factor) | (raw > _LATEST // factor)
        micros = numpy.where(outside, 0, raw) * factor
    faults.add(
        outside,
        lambda index: InvalidRecord(
            field="time", reason=f"{int(raw[index])} {kind.unit} is outside the years 1 to 9999"
        ),
    )
    if not any_time_allowed():
        _refuse_implausible(micros, faults)
    return micros


def _refuse_implausible(micros: Array, faults: _Faults) -> None:
    latest = (latest_plausible() - _EPOCH) // _MICROSECOND

    def complain(index: int) -> InvalidRecord:
        try:
            plausible("time", _EPOCH + int(micros[index]) * _MICROSECOND)
        except InvalidRecord as error:
            return error
        raise AssertionError(index)

    faults.add((micros < _FIRST_PLAUSIBLE) | (micros > latest), complain)


def _refuse_ahead(time: Array, latest: LatestTime, faults: _Faults) -> None:
    limit = latest.at_present()
    faults.add(
        time > (limit - _EPOCH) // _MICROSECOND,
        lambda index: latest.complaint(_EPOCH + int(time[index]) * _MICROSECOND, limit),
    )


def _counts(array: Array, faults: _Faults) -> tuple[Array, Array]:
    numpy, pyarrow = require("numpy"), require("pyarrow")
    if pyarrow.types.is_null(array.type):
        return numpy.zeros(len(array), dtype=numpy.int64), numpy.zeros(len(array), dtype=bool)
    # pandas makes such an array from a column of integers without any value.
    if pyarrow.types.is_floating(array.type) and array.is_nan().fill_null(fill_value=True).true_count == len(array):
        return numpy.zeros(len(array), dtype=numpy.int64), numpy.zeros(len(array), dtype=bool)
    if not pyarrow.types.is_integer(array.type):
        raise InvalidRecord(field="seq", reason=f"is {array.type}; give integers")
    present = _valid(array)
    raw = numpy.asarray(array.fill_null(0))

    def complain(index: int) -> InvalidRecord:
        try:
            check_count("seq", int(raw[index]))
        except InvalidRecord as error:
            return error
        raise AssertionError(index)

    faults.add((raw < 0) | (raw > numpy.uint64(2**63 - 1)) if raw.dtype == numpy.uint64 else raw < 0, complain)
    return raw.astype(numpy.int64), present


def _decimals(
    field: str, array: Array, bound: int, check: Callable[[str, Decimal], None], faults: _Faults
) -> tuple[Array, Array]:
    """Return values in 1/100,000,000 and a mask of present ones. A value that the column cannot hold is a fault."""
    numpy, pyarrow = require("numpy"), require("pyarrow")
    types = pyarrow.types
    kind = array.type
    if types.is_null(kind):
        return numpy.zeros(len(array), dtype=numpy.int64), numpy.zeros(len(array), dtype=bool)
    if not (types.is_decimal(kind) or types.is_integer(kind)):
        raise InvalidRecord(
            field=field, reason=f"is {kind}, which is not exact; give decimals, such as decimal128(18, 8), or integers"
        )
    present = _valid(array)
    if types.is_integer(kind):
        array = array.cast(pyarrow.decimal128(20, 0))
    try:
        scaled = array.cast(pyarrow.decimal128(38, 8))
    except pyarrow.ArrowInvalid:
        # Some value does not fit or would lose digits: find it row by row.
        scaled = _checked_one_by_one(field, array, check, faults)
    halves = numpy.frombuffer(scaled.buffers()[1], dtype=[("low", "<u8"), ("high", "<i8")])[
        scaled.offset : scaled.offset + len(scaled)
    ]
    low = halves["low"].view(numpy.int64) if halves.flags.c_contiguous else halves["low"].astype(numpy.int64)
    high = numpy.where(present, halves["high"], 0)
    low = numpy.where(present, low, 0)
    values = low
    if (high != low >> 63).any():
        values = numpy.array(
            [(int(upper) << 64) | (int(lower) & (2**64 - 1)) for upper, lower in zip(high, low, strict=True)],
            dtype=object,
        )
    too_big = numpy.asarray((values >= bound) | (values <= -bound), dtype=bool)

    def complain(index: int) -> InvalidRecord:
        value = array[index].as_py()
        try:
            check(field, value)
        except InvalidRecord as error:
            return error
        return InvalidRecord(field=field, reason=f"{shown(value)} is too big")

    faults.add(too_big, complain)
    if bound == _MAX_PRICE and values.dtype == object:
        values = numpy.where(too_big, 0, values).astype(numpy.int64)
    return values, present


def _checked_one_by_one(field: str, array: Array, check: Callable[[str, Decimal], None], faults: _Faults) -> Array:
    numpy, pyarrow = require("numpy"), require("pyarrow")
    good: list[Decimal | None] = []
    complaints: dict[int, InvalidRecord] = {}
    for index, value in enumerate(array.to_pylist()):
        try:
            if value is not None:
                check(field, value)
            good.append(value)
        except InvalidRecord as error:
            complaints[index] = error
            good.append(Decimal(0))
    faults.add(numpy.isin(numpy.arange(len(array)), list(complaints)), complaints.__getitem__)
    # A checked value fits 28 digits and 8 places. Zeros beyond the places are cut before the cast.
    return pyarrow.array(
        [None if value is None else with_eight_places(value) for value in good],
        type=pyarrow.decimal128(38, 8),
    )


def with_eight_places(value: Decimal) -> Decimal:
    """Return the same number with eight places. A checked value has only zeros beyond them."""
    return _EXACT.quantize(value, _EIGHT_PLACES)


def _valid(array: Array) -> Array:
    numpy = require("numpy")
    if array.null_count == 0:
        return numpy.ones(len(array), dtype=bool)
    return numpy.asarray(array.is_valid())
