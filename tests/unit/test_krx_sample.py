"""The made-up trading day keeps the exchange's rules, and is the same on every machine."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qts_data.contracts import any_text, any_time
from qts_data.demo.krx_day import DEFAULT_SYMBOLS, generate_day, price_limits, tick_size
from qts_data.errors import InvalidRecord
from tests.fixtures.effort import amount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qts_data.contracts import TickData

REPOSITORY = Path(__file__).parents[2]
DAY = dt.date(2026, 11, 20)
OPENING = dt.datetime(2026, 11, 20, 9, 0, tzinfo=dt.timezone(dt.timedelta(hours=9)))
UNTIL_END_OF_CONTINUOUS_TRADING = dt.timedelta(hours=6, minutes=20)
UNTIL_CLOSING = dt.timedelta(hours=6, minutes=30)
CLOSING = OPENING + UNTIL_CLOSING

tradable_prices = st.integers(4, 3_000_000).map(lambda won: Decimal(won - won % int(tick_size(Decimal(won)))))


@pytest.fixture(scope="module")
def day() -> list[TickData]:
    return list(generate_day(DAY))


def by_symbol(ticks: Iterable[TickData]) -> dict[str, list[TickData]]:
    groups: dict[str, list[TickData]] = {}
    for tick in ticks:
        groups.setdefault(tick.symbol, []).append(tick)
    return groups


def fingerprint(ticks: Iterable[TickData]) -> str:
    digest = hashlib.sha256()
    for tick in ticks:
        fields = (tick.time.isoformat(), tick.symbol, tick.price, tick.volume, tick.source, tick.bid, tick.ask)
        digest.update(f"{' '.join(map(str, fields))}\n".encode())
    return digest.hexdigest()


def broken_rules(ticks: list[TickData], base_price: Decimal, opening: dt.datetime = OPENING) -> Iterator[str]:
    """Describe the violations of the rules in a symbol's day."""
    lower, upper = price_limits(base_price)
    end = opening + UNTIL_END_OF_CONTINUOUS_TRADING
    if [tick.time for tick in ticks if not opening < tick.time < end] != [opening, opening + UNTIL_CLOSING]:
        yield "outside continuous trading there is not just one print of each auction"
    if any(before.time > after.time for before, after in itertools.pairwise(ticks)):
        yield "not in order of time"
    for tick in ticks:
        if tick.bid is None or tick.ask is None:
            yield f"no quotes: {tick}"
            continue
        if any(price % tick_size(price) for price in (tick.price, tick.bid, tick.ask)):
            yield f"no multiple of the tick size: {tick}"
        if not lower <= tick.bid < tick.ask <= upper:
            yield f"bid and ask are not in order within {lower} to {upper}: {tick}"
        if tick.price not in {tick.bid, tick.ask}:
            yield f"neither at the bid nor at the ask: {tick}"
        if tick.volume < 1 or tick.volume % 1:
            yield f"no whole shares: {tick}"


# Rules of the exchange ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "size"),
    [
        ("0.5", 1),
        (1, 1),
        (1_999, 1),
        ("1999.99", 1),
        (2_000, 5),
        (4_995, 5),
        (5_000, 10),
        (19_990, 10),
        (20_000, 50),
        (49_950, 50),
        (50_000, 100),
        (199_900, 100),
        (200_000, 500),
        (499_500, 500),
        (500_000, 1_000),
        (3_000_000, 1_000),
    ],
)
def test_tick_sizes_are_those_in_force_since_2023(price: int | str, size: int) -> None:
    assert tick_size(Decimal(price)) == size


@pytest.mark.parametrize(
    "price", [Decimal(0), Decimal(-1), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), 100, 100.0, "100", None]
)
def test_number_that_is_not_a_price_has_no_tick_size(price: Any) -> None:
    with pytest.raises(InvalidRecord) as caught:
        tick_size(price)
    assert caught.value.field == "price"


@pytest.mark.parametrize(
    ("base_price", "lower", "upper"),
    [
        # The exchange's own example; the tick size at the upper limit has become finer since.
        (9_940, 6_960, 12_920),
        # 30 % are 6,315, cut to 6,300: taken away they leave 14,750, though 14,740 would be less than 30 % away.
        (21_050, 14_750, 27_350),
        # Above 20,000 the upper limit is cut once more, from 20,780 to whole ticks of 50.
        (15_990, 11_200, 20_750),
        (71_500, 50_100, 92_900),
        (201_500, 141_500, 261_500),
        (4, 3, 5),
    ],
)
def test_price_limits_are_cut_to_ticks_as_the_exchange_does(base_price: int, lower: int, upper: int) -> None:
    assert price_limits(Decimal(base_price)) == (Decimal(lower), Decimal(upper))


@given(base_price=tradable_prices)
def test_price_limits_are_ticks_at_most_30_percent_away(base_price: Decimal) -> None:
    """The next tick beyond a limit is more than 30 percent away."""
    lower, upper = price_limits(base_price)
    assert lower % tick_size(lower) == upper % tick_size(upper) == 0
    assert base_price - lower <= base_price * 3 / 10
    assert upper - base_price <= base_price * 3 / 10
    # Another tick of the base price would be too far.
    assert base_price - lower + tick_size(base_price) > base_price * 3 / 10
    assert upper + tick_size(upper) > base_price + (base_price - lower)


@pytest.mark.parametrize("base_price", [Decimal(2_001), Decimal("71500.5"), Decimal(71_550), Decimal(3), Decimal(1)])
def test_untradable_base_price_is_refused(base_price: Decimal) -> None:
    with pytest.raises(InvalidRecord) as caught:
        price_limits(base_price)
    assert caught.value.field == "base_price"


# The day ------------------------------------------------------------------------------------------------


def test_the_usual_day_has_20_000_ticks_of_each_of_three_shares(day: list[TickData]) -> None:
    assert Counter(tick.symbol for tick in day) == dict.fromkeys(DEFAULT_SYMBOLS, 20_000)
    assert {(tick.source, tick.seq) for tick in day} == {("krx-sample", None)}


def test_the_usual_day_keeps_the_rules(day: list[TickData]) -> None:
    base_prices = dict(zip(DEFAULT_SYMBOLS, map(Decimal, (71_500, 201_500, 41_250)), strict=True))
    for symbol, ticks in by_symbol(day).items():
        assert list(broken_rules(ticks, base_prices[symbol])) == []


def test_all_symbols_together_are_in_order_of_time(day: list[TickData]) -> None:
    assert all(before.time <= after.time for before, after in itertools.pairwise(day))
    assert day[0].time == OPENING
    assert day[-1].time == CLOSING
    assert {tick.time.tzinfo for tick in day} == {dt.UTC}


def test_trades_share_milliseconds_and_some_equal_another(day: list[TickData]) -> None:
    for ticks in by_symbol(day).values():
        assert max(Counter(tick.time for tick in ticks).values()) > 10
        # As many as on a real day of one share, where 19 % of the trades equal another.
        repeated = len(ticks) - len({(tick.time, tick.price, tick.volume) for tick in ticks})
        assert 0.1 < repeated / len(ticks) < 0.4


def test_trading_is_lively_at_both_ends_of_the_day(day: list[TickData]) -> None:
    half_hours = Counter((tick.time - OPENING) // dt.timedelta(minutes=30) for tick in day)
    assert set(half_hours) >= set(range(12))
    assert half_hours[0] > 3 * half_hours[6]
    assert half_hours[11] > 2 * half_hours[6]


def test_the_auctions_are_the_largest_prints_of_the_day(day: list[TickData]) -> None:
    for ticks in by_symbol(day).values():
        largest = sorted(ticks, key=lambda tick: tick.volume)[-2:]
        assert {tick.time for tick in largest} == {OPENING, CLOSING}


def test_the_price_moves_but_does_not_run_away(day: list[TickData]) -> None:
    for ticks in by_symbol(day).values():
        prices = [tick.price for tick in ticks]
        assert len(set(prices)) > 10
        assert max(prices) / min(prices) < Decimal("1.15")
        steps = [abs(after - before) for before, after in itertools.pairwise(prices)]
        assert max(steps) <= 5 * max(tick_size(price) for price in prices)


@settings(max_examples=amount(30, 60))
@given(
    date=st.dates(),
    symbol=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=64),
    seed=st.integers(),
    ticks_per_symbol=st.integers(2, 300),
    base_price=tradable_prices,
)
def test_every_day_keeps_the_rules(
    date: dt.date, symbol: str, seed: int, ticks_per_symbol: int, base_price: Decimal
) -> None:
    with any_time(), any_text():
        ticks = list(
            generate_day(
                date,
                symbols=[symbol],
                seed=seed,
                ticks_per_symbol=ticks_per_symbol,
                base_prices={symbol: base_price},
                source="made-up",
            )
        )
    assert len(ticks) == ticks_per_symbol
    assert {(tick.symbol, tick.source) for tick in ticks} == {(symbol, "made-up")}
    # 09:00 in Korea is midnight UTC.
    opening = dt.datetime.combine(date, dt.time.min, tzinfo=dt.UTC)
    assert list(broken_rules(ticks, base_price, opening)) == []


def test_a_share_at_its_limits_keeps_the_rules() -> None:
    # Limits of 3 and 5 won: the walk meets one of them at nearly every step.
    ticks = list(generate_day(DAY, symbols=["X"], ticks_per_symbol=5_000, base_prices={"X": Decimal(4)}))
    assert list(broken_rules(ticks, Decimal(4))) == []
    assert {tick.price for tick in ticks} == {3, 4, 5}


def test_bid_moves_by_single_ticks_of_either_size() -> None:
    """The price crosses a border of the table of tick sizes."""
    ticks = list(generate_day(DAY, symbols=["X"], ticks_per_symbol=5_000, base_prices={"X": Decimal(2_000)}))
    bids = [tick.bid for tick in ticks[1:-1] if tick.bid is not None]
    moves = {(before, after) for before, after in itertools.pairwise(bids) if before != after}
    assert {abs(after - before) for before, after in moves} == {1, 5}
    assert all(abs(after - before) == tick_size(min(before, after)) for before, after in moves)


def test_symbols_without_a_price_use_every_tick_size() -> None:
    """Their base prices are spread over the table of tick sizes."""
    symbols = [f"{number:06}" for number in range(1, 60)]
    ticks = list(generate_day(DAY, symbols=symbols, ticks_per_symbol=2))
    assert {tick_size(tick.price) for tick in ticks} == {1, 5, 10, 50, 100, 500, 1_000}


def test_two_ticks_are_the_two_auctions() -> None:
    assert [tick.time for tick in generate_day(DAY, symbols=["005930"], ticks_per_symbol=2)] == [OPENING, CLOSING]


def test_no_symbols_make_no_ticks() -> None:
    assert list(generate_day(DAY, symbols=[])) == []


# The same on every machine ------------------------------------------------------------------------------

SMALL_DAY = "e74c7c2dca9cf04ed2e11952399f4f94c24a0c40ebcb6fe0ec548f25c2b783af"


def test_the_day_never_changes() -> None:
    assert fingerprint(generate_day(DAY, ticks_per_symbol=500)) == SMALL_DAY


@pytest.mark.parametrize("hash_seed", ["0", "4294967295"])
def test_the_day_does_not_depend_on_the_seed_of_hashes(hash_seed: str) -> None:
    program = (
        "import datetime; from tests.unit.test_krx_sample import fingerprint, generate_day; "
        "print(fingerprint(generate_day(datetime.date(2026, 11, 20), ticks_per_symbol=500)))"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "TZ": "America/New_York", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == SMALL_DAY


@settings(max_examples=20)
@given(date=st.dates(), seed=st.integers(), other_seed=st.integers())
def test_the_seed_alone_decides_the_day(date: dt.date, seed: int, other_seed: int) -> None:
    assume(seed != other_seed)

    def made(seed: int) -> list[TickData]:
        with any_time():
            return list(generate_day(date, seed=seed, ticks_per_symbol=50))

    assert made(seed) == made(seed)
    assert made(seed) != made(other_seed)


def test_another_date_is_another_day_and_not_the_same_one_moved() -> None:
    first, second = (
        [(tick.time.time(), tick.price) for tick in generate_day(date, ticks_per_symbol=100)]
        for date in (DAY, DAY + dt.timedelta(days=1))
    )
    assert first != second


def test_symbol_trades_the_same_beside_any_others() -> None:
    alone = list(generate_day(DAY, symbols=["000660"], ticks_per_symbol=500))
    together = by_symbol(generate_day(DAY, symbols=["035720", "000660", "X"], ticks_per_symbol=500))
    assert together["000660"] == alone


# Wrong arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("symbols", {"symbols": ["005930", "000660", "005930"]}),
        ("symbol", {"symbols": ["005930", ""]}),
        ("symbol", {"symbols": ["x" * 65]}),
        ("source", {"source": "x" * 65}),
        ("ticks_per_symbol", {"ticks_per_symbol": 1}),
        ("ticks_per_symbol", {"ticks_per_symbol": -5}),
        ("base_price", {"base_prices": {"005930": Decimal(71_550)}}),
        ("price", {"base_prices": {"005930": Decimal(0)}}),
        ("price", {"base_prices": {"005930": 71_500.0}}),
    ],
)
def test_wrong_argument_is_refused_at_the_call(field: str, arguments: dict[str, Any]) -> None:
    """`generate_day` raises before its first tick is read."""
    with pytest.raises(InvalidRecord) as caught:
        generate_day(DAY, **arguments)
    assert caught.value.field == field
