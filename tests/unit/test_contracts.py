"""The records accept exactly the values that the tables hold to the last digit."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import pickle
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qts_data.contracts import OHLCV, TickData, any_text, any_time
from qts_data.errors import InvalidRecord
from qts_data.extras import is_installed, require
from tests.fixtures.factories import TickFactory

NOON = dt.datetime(2026, 11, 20, 12, 0, tzinfo=dt.UTC)
NAIVE = NOON.replace(tzinfo=None)

numeric_18_8 = st.integers(-(10**18) + 1, 10**18 - 1).map(lambda units: Decimal(f"{units}E-8"))
unsigned_numeric_28_8 = st.integers(0, 10**28 - 1).map(lambda units: Decimal(f"{units}E-8"))
# Around the borders, far beyond them, and in every way of writing the same number.
any_finite_decimal = st.builds(
    lambda sign, digits, exponent: Decimal((sign, digits, exponent)),
    st.integers(0, 1),
    st.lists(st.sampled_from([0, 0, 0, 1, 5, 9]), min_size=1, max_size=40).map(tuple),
    st.integers(-45, 30),
)

NO_DECIMALS = [1.5, 1, True, "1.5", None, Fraction(1, 2), b"1"]
NOT_FINITE = [Decimal("NaN"), Decimal("sNaN"), Decimal("-NaN123"), Decimal("Infinity"), Decimal("-Infinity")]


def tick(**changes: Any) -> TickData:
    fields: dict[str, Any] = {"time": NOON, "symbol": "005930", "price": Decimal(71_500), "volume": Decimal(10)}
    return TickData(**(fields | changes))


def bar(**changes: Any) -> OHLCV:
    fields: dict[str, Any] = {
        "time": NOON,
        "symbol": "005930",
        "source": "",
        "open": Decimal(10),
        "high": Decimal(12),
        "low": Decimal(9),
        "close": Decimal(11),
        "volume": Decimal(100),
        "tick_count": 3,
    }
    return OHLCV(**(fields | changes))


def refusal(field: str, value: object) -> InvalidRecord:
    with pytest.raises(InvalidRecord) as caught:
        tick(**{field: value})
    assert caught.value.field == field
    assert caught.value.row is None
    return caught.value


def holds(value: Decimal, *, integer_digits: int, places: int) -> bool:
    """Whether NUMERIC(integer_digits + places, places) holds the number, computed with fractions."""
    exact = Fraction(value)
    return bool(abs(exact) < 10**integer_digits and exact * 10**places % 1 == 0)


def accepts(**changes: Any) -> bool:
    try:
        tick(**changes)
    except InvalidRecord:
        return False
    return True


@given(price=numeric_18_8, volume=unsigned_numeric_28_8, bid=st.none() | numeric_18_8, ask=st.none() | numeric_18_8)
def test_tick_keeps_every_value_that_its_columns_hold(
    price: Decimal, volume: Decimal, bid: Decimal | None, ask: Decimal | None
) -> None:
    """The record holds the very objects that it was given."""
    made = tick(price=price, volume=volume, bid=bid, ask=ask)
    given_values, kept_values = (price, volume, bid, ask), (made.price, made.volume, made.bid, made.ask)
    assert all(kept is given for kept, given in zip(kept_values, given_values, strict=True))


@given(value=any_finite_decimal)
@example(Decimal("9999999999.99999999"))
@example(Decimal("-9999999999.99999999"))
@example(Decimal(10_000_000_000))
@example(Decimal("9999999999.999999995"))
@example(Decimal("0.000000001"))
@example(Decimal("0.00000001000"))
@example(Decimal("0E-40"))
@example(Decimal("0E+30"))
@example(Decimal("-0.0"))
def test_a_price_is_accepted_exactly_if_numeric_18_8_holds_it(value: Decimal) -> None:
    fits = holds(value, integer_digits=10, places=8)
    assert accepts(price=value) is fits
    assert accepts(bid=value) is fits
    assert accepts(ask=value) is fits


@given(value=any_finite_decimal)
@example(Decimal("99999999999999999999.99999999"))
@example(Decimal("99999999999999999999.999999999"))
@example(Decimal("1E+20"))
@example(Decimal("-0"))
@example(Decimal("-0.00000001"))
def test_volume_is_accepted_exactly_if_its_column_holds_it(value: Decimal) -> None:
    """The column is NUMERIC(28, 8), and a volume is not negative."""
    assert accepts(volume=value) is (holds(value, integer_digits=20, places=8) and value >= 0)


@given(value=any_finite_decimal, precision=st.integers(1, 60))
def test_decimal_context_of_the_caller_changes_no_acceptance(value: Decimal, precision: int) -> None:
    """The caller's precision, bounds and traps are set to extreme values."""
    at_home = accepts(price=value), accepts(volume=value)
    with localcontext() as context:
        context.prec = precision
        context.Emax, context.Emin = 5, -5
        context.clear_traps()
        assert (accepts(price=value), accepts(volume=value)) == at_home


@pytest.mark.parametrize("field", ["price", "volume", "bid", "ask"])
@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_number_that_is_not_finite_is_refused(field: str, value: Decimal) -> None:
    assert "not a finite number" in refusal(field, value).reason


@pytest.mark.parametrize("field", ["price", "volume"])
@pytest.mark.parametrize("value", NO_DECIMALS, ids=repr)
def test_number_that_is_not_a_decimal_is_refused(field: str, value: object) -> None:
    """A price and a volume must be `Decimal`."""
    assert "must be a Decimal" in refusal(field, value).reason


@pytest.mark.parametrize("field", ["bid", "ask"])
@pytest.mark.parametrize("value", [value for value in NO_DECIMALS if value is not None], ids=repr)
def test_a_quote_is_a_decimal_or_none(field: str, value: object) -> None:
    assert "must be a Decimal" in refusal(field, value).reason


def test_a_subclass_of_decimal_is_held_to_the_same_rules() -> None:
    class Won(Decimal):
        pass

    assert tick(price=Won("71500")).price == 71_500
    assert tick(price=Won("71500.1000000000")).price == Decimal("71500.1")
    assert "after the point" in refusal("price", Won("0.000000001")).reason


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("price", Decimal(10_000_000_000), "10000000000 has more than 10 digits before the point"),
        ("price", Decimal("1.123456789"), "1.123456789 has more than 8 digits after the point"),
        ("volume", Decimal("1E+20"), "1E+20 has more than 20 digits before the point"),
        ("volume", Decimal(-1), "-1 is below zero"),
        ("seq", -1, "-1 is below zero"),
        ("symbol", "", "must have 1 to 64 characters, has 0"),
        ("symbol", "x" * 65, "must have 1 to 64 characters, has 65"),
        ("source", "x" * 65, "must have 0 to 64 characters, has 65"),
        ("time", NAIVE, "2026-11-20 12:00:00 has no time zone; give an aware instant"),
    ],
    ids=str,
)
def test_a_refusal_names_the_value_and_the_rule(field: str, value: object, reason: str) -> None:
    refused = refusal(field, value)
    assert refused.reason == reason
    assert str(refused) == f"{field}: {reason}"
    assert str(refused.at(7)) == f"row 7: {field}: {reason}"


def test_the_message_about_an_endless_number_is_short() -> None:
    assert len(refusal("price", Decimal("1" * 1_000_000)).reason) < 200
    assert len(refusal("price", Decimal("0." + "1" * 1_000_000)).reason) < 200
    assert len(refusal("volume", Decimal("-" + "1" * 20)).reason) < 200
    assert len(refusal("seq", 10**4000).reason) < 200


def test_a_price_may_be_negative_and_a_volume_may_be_zero() -> None:
    assert tick(price=Decimal("-37.63"), volume=Decimal(0)).price == Decimal("-37.63")


class Nanoseconds(dt.datetime):
    """A datetime with more digits, as pandas has one."""

    nanosecond = 0


@pytest.mark.parametrize(("nanosecond", "taken"), [(0, True), (1, False), (999, False)])
def test_instant_between_two_microseconds_is_refused(nanosecond: int, taken: bool) -> None:
    """Nanoseconds are not cut off silently."""
    time = Nanoseconds(2026, 11, 20, 12, tzinfo=dt.UTC)
    time.nanosecond = nanosecond
    assert accepts(time=time) == taken
    if not taken:
        assert "fraction of a microsecond" in refusal("time", time).reason


@pytest.mark.skipif(not is_installed("pandas"), reason="needs pandas")
def test_pandas_timestamp_is_taken_to_the_microsecond() -> None:
    """A timestamp with nanoseconds and NaT are refused."""
    pandas = require("pandas")
    assert tick(time=pandas.Timestamp("2026-11-20T12:00:00Z")).time == NOON
    assert refusal("time", pandas.Timestamp("2026-11-20T12:00:00.000000001Z"))
    assert refusal("time", pandas.NaT)


@given(zone=st.timezones(), local=st.datetimes(NAIVE.replace(year=1800), NAIVE.replace(year=2200)))
def test_time_of_any_zone_stays_the_same_instant(zone: ZoneInfo, local: dt.datetime) -> None:
    """The record holds the instant in UTC."""
    aware = local.replace(tzinfo=zone)
    with any_time():
        made = tick(time=aware)
    assert (made.time, made.time.tzinfo) == (aware.astimezone(dt.UTC), dt.UTC)


@given(naive=st.datetimes())
def test_a_naive_time_is_refused(naive: dt.datetime) -> None:
    assert "no time zone" in refusal("time", naive).reason


def test_time_of_a_zone_without_an_offset_is_refused() -> None:
    class Nowhere(dt.tzinfo):
        def utcoffset(self, _: dt.datetime | None) -> None:
            return None

        def dst(self, _: dt.datetime | None) -> None:
            return None

        def tzname(self, _: dt.datetime | None) -> None:
            return None

    assert "no time zone" in refusal("time", dt.datetime(2026, 1, 1, tzinfo=Nowhere())).reason


@pytest.mark.parametrize(
    "value", [dt.date(2026, 1, 1), dt.time(9, tzinfo=dt.UTC), "2026-01-01T00:00Z", 0, None], ids=repr
)
def test_a_time_is_a_datetime(value: object) -> None:
    assert "must be a datetime" in refusal("time", value).reason


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime.min.replace(tzinfo=ZoneInfo("Asia/Seoul")),
        dt.datetime.max.replace(tzinfo=ZoneInfo("America/New_York")),
    ],
    ids=str,
)
def test_a_time_that_utc_cannot_say_is_refused(value: dt.datetime) -> None:
    assert "outside the years 1 to 9999" in refusal("time", value).reason


@given(
    symbol=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=64),
    source=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=64),
)
@example(symbol="삼성전자", source="키움")
@example(symbol="SPY   240119C00475000", source="")
@example(symbol="😀" * 64, source="😀" * 64)
def test_any_text_of_the_right_length_is_a_symbol_and_a_source(symbol: str, source: str) -> None:
    with any_text():
        made = tick(symbol=symbol, source=source)
    assert (made.symbol, made.source) == (symbol, source)


@given(symbol=st.text(min_size=65))
def test_a_symbol_of_65_characters_is_refused(symbol: str) -> None:
    assert "must have 1 to 64 characters" in refusal("symbol", symbol).reason


@pytest.mark.parametrize("field", ["symbol", "source"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("A\0B", "NUL"),
        ("A\ud800B", "surrogate"),
        (b"SPY", "must be a str, is bytes"),
        (None, "must be a str, is NoneType"),
        (5930, "must be a str, is int"),
    ],
    ids=repr,
)
def test_text_that_the_database_refuses_is_refused(field: str, value: object, reason: str) -> None:
    assert reason in refusal(field, value).reason


@given(seq=st.integers(0, 2**63 - 1))
@example(0)
@example(2**63 - 1)
def test_a_sequence_number_is_any_bigint_from_zero(seq: int) -> None:
    assert tick(seq=seq).seq == seq


@pytest.mark.parametrize("value", [True, False, 1.0, "1", Decimal(1)], ids=repr)
def test_a_sequence_number_is_an_int_and_no_bool(value: object) -> None:
    assert "must be an int" in refusal("seq", value).reason


@given(seq=st.integers(max_value=-1) | st.integers(min_value=2**63))
def test_a_sequence_number_outside_bigint_is_refused(seq: int) -> None:
    refusal("seq", seq)


def test_a_tick_has_defaults_only_where_a_feed_may_say_nothing() -> None:
    made = tick()
    assert (made.source, made.seq, made.bid, made.ask) == ("", None, None, None)
    required = {field.name for field in dataclasses.fields(TickData) if field.default is dataclasses.MISSING}
    assert required == {"time", "symbol", "price", "volume"}
    for name in required:
        fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
        del fields[name]
        with pytest.raises(TypeError, match=name):
            TickData(**fields)


@pytest.mark.parametrize("made", [tick(seq=1, bid=Decimal(1), ask=Decimal(2)), bar()], ids=["tick", "bar"])
def test_a_record_is_a_frozen_value(made: TickData | OHLCV) -> None:
    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    for name, value in fields.items():
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, name, value)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(made, name)
    assert not hasattr(made, "__dict__")
    twin = type(made)(**fields)
    assert twin is not made
    assert twin == made
    assert hash(twin) == hash(made)
    assert all(f"{name}={value!r}" in repr(made) for name, value in fields.items())
    for again in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert again == made
    by_position: Any = type(made)
    with pytest.raises(TypeError, match="positional"):
        by_position(*fields.values())


@given(st.data())
def test_replaced_field_makes_another_checked_tick(data: st.DataObject) -> None:
    """`dataclasses.replace` checks the new values."""
    made = tick()
    price = data.draw(numeric_18_8)
    assume(price != made.price)
    other = dataclasses.replace(made, price=price)
    assert other != made
    assert dataclasses.replace(other, price=made.price) == made
    with pytest.raises(InvalidRecord):
        dataclasses.replace(made, price=Decimal("NaN"))


def test_factory_ticks_are_valid_and_in_order() -> None:
    ticks = TickFactory.build_batch(20)
    assert [each.time for each in ticks] == sorted({each.time for each in ticks})
    assert TickFactory.build(symbol="000660").symbol == "000660"


@given(prices=st.lists(numeric_18_8, min_size=4, max_size=4).map(sorted), data=st.data())
def test_a_bar_takes_any_open_and_close_between_low_and_high(prices: list[Decimal], data: st.DataObject) -> None:
    low, *middle, high = prices
    opening, closing = data.draw(st.permutations(middle))
    made = bar(open=opening, high=high, low=low, close=closing)
    assert (made.open, made.high, made.low, made.close) == (opening, high, low, closing)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("open", {"open": Decimal("12.1")}),
        ("open", {"open": Decimal("8.9")}),
        ("close", {"close": Decimal("12.1")}),
        ("close", {"close": Decimal("8.9")}),
        ("open", {"low": Decimal(12), "high": Decimal(9)}),
        *((name, {name: value}) for name in ("open", "high", "low", "close") for value in (1.5, *NOT_FINITE)),
        ("high", {"high": Decimal("1E+10")}),
        ("low", {"low": Decimal("8.123456789")}),
        ("volume", {"volume": Decimal(-1)}),
        ("volume", {"volume": 100}),
        ("tick_count", {"tick_count": -1}),
        ("tick_count", {"tick_count": True}),
        ("tick_count", {"tick_count": 2**63}),
        ("symbol", {"symbol": ""}),
        ("source", {"source": None}),
        ("time", {"time": NAIVE}),
    ],
    ids=str,
)
def test_a_bar_that_breaks_a_rule_is_refused(field: str, changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRecord) as caught:
        bar(**changes)
    assert caught.value.field == field
