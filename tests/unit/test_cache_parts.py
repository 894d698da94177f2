"""Breaker, clock, fences, near cache, keys and codecs, each by itself."""

from __future__ import annotations

import datetime as dt
import json
import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qts_data.cache import MISSING, Breaker, BreakerState, JsonCodec, MemoryCache, version_text
from qts_data.cache.aside import CacheAside
from qts_data.cache.clock import ServerClock
from qts_data.cache.codec import ORDER, POSITION, QUOTE, RISK, STRATEGY, ForeignRecord
from qts_data.cache.committed import Committed
from qts_data.cache.keys import Keys
from qts_data.cache.near import NearCache
from qts_data.cache.plan import Plan
from qts_data.cache.port import now
from qts_data.contracts import CacheType, OrderState, Position, Quote, RiskLimits, StrategyParameters, any_time
from qts_data.errors import InvalidRecord
from tests.fixtures.cache_rows import position


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def breaker(changes: list[BreakerState] | None = None) -> tuple[Breaker, Clock]:
    clock = Clock()
    return Breaker(5, 60, on_change=(changes if changes is not None else []).append, clock=clock), clock


# Breaker


def state(made: Breaker) -> BreakerState:
    return made.state


def test_the_breaker_opens_at_the_fifth_failure_in_a_row() -> None:
    changes: list[BreakerState] = []
    made, _ = breaker(changes)
    for _turn in range(2):
        for _failure in range(4):
            made.failed(made.enter())
        made.succeeded(made.enter())
    assert state(made) is BreakerState.CLOSED
    for _failure in range(5):
        made.failed(made.enter())
    assert state(made) is BreakerState.OPEN
    assert made.enter() == 0
    assert changes == [BreakerState.OPEN]


def test_failures_that_came_together_are_one() -> None:
    made, _ = breaker()
    incident = object()
    for _ in range(100):
        made.failed(made.enter(), incident)
    assert (made.state, made.failures) == (BreakerState.CLOSED, 1)


def test_breaker_lets_one_probe_through_after_its_pause() -> None:
    """Of fifty callers after the recovery time one goes through. Its result opens or closes the breaker."""
    changes: list[BreakerState] = []
    made, clock = breaker(changes)
    for _ in range(5):
        made.failed(made.enter())
    clock.time += 59.9
    assert made.enter() == 0
    clock.time += 0.1
    permits = [made.enter() for _ in range(50)]
    assert sum(permit != 0 for permit in permits) == 1
    made.failed(permits[0])
    assert state(made) is BreakerState.OPEN
    clock.time += 60
    permit = made.enter()
    made.succeeded(permit)
    assert state(made) is BreakerState.CLOSED
    assert changes == [BreakerState.OPEN, BreakerState.CLOSED]


def test_answer_of_an_earlier_call_does_not_close_the_breaker() -> None:
    """A call that began before the breaker opened changes nothing when it ends."""
    made, clock = breaker()
    early = made.enter()
    for _ in range(5):
        made.failed(made.enter())
    made.succeeded(early)
    assert state(made) is BreakerState.OPEN
    clock.time += 60
    probe = made.enter()
    made.succeeded(early)
    made.failed(early)
    assert state(made) is BreakerState.HALF_OPEN
    made.succeeded(probe)
    assert state(made) is BreakerState.CLOSED


def test_a_probe_that_is_cancelled_leaves_its_place_to_the_next() -> None:
    made, clock = breaker()
    for _ in range(5):
        made.failed(made.enter())
    clock.time += 60
    made.abandoned(made.enter())
    permit = made.enter()
    assert permit
    made.succeeded(permit)
    assert state(made) is BreakerState.CLOSED


# Clock


@given(
    offset=st.floats(-1e9, 1e9),
    trips=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 0.2)), min_size=1, max_size=30),
)
def test_bounds_of_a_servers_clock_hold_for_any_delays(offset: float, trips: list[tuple[float, float, float]]) -> None:
    clock, time = ServerClock(), 1000.0
    for pause, there, back in trips:
        sent = time + pause
        time = sent + there + back
        clock.sample(sent + there + offset, sent, time)
        assert clock.low - 1e-6 <= offset <= clock.high + 1e-6
        assert clock.high - clock.low <= there + back + 1e-6


def test_a_clock_that_was_set_is_believed() -> None:
    clock = ServerClock()
    clock.sample(5000.0, 100.0, 100.001)
    for change in (-3600.0, 3600.0):
        clock.sample(5000.0 + change + 1, 101.0, 101.001)
        assert clock.low == pytest.approx(4900 + change, abs=0.01)
        assert clock.high == pytest.approx(4900 + change, abs=0.01)


# Fences


def test_floor_never_falls_and_ends_with_its_values() -> None:
    """A floor is kept until no older value can be left in a cache."""
    clock = Clock()
    made = Committed(10, clock=clock)
    made.note("k", "5", "five")
    made.note("k", "3", "three")
    floor = made.find("k")
    assert floor is not None
    assert (floor.version, floor.value) == ("5", "five")
    clock.time += 10
    assert made.find("k") is None


def test_more_floors_than_kept_distrust_their_kind_only() -> None:
    """Values of the kind read before the newest evicted floor are distrusted. Later ones and other kinds are not."""
    clock, events = Clock(), []
    made = Committed(10, most=3, clock=clock, on_crowded=lambda *event: events.append(event))
    made.note("pos:{other}", "1")
    for n in range(5):
        clock.time += 1
        made.note(f"ord:{{{n}}}", "1")
    assert len(made) == 4
    assert made.forgotten_at("ord:{any}") == made.forgotten == 102.0
    assert made.forgotten_at("pos:{other}") == float("-inf")
    assert events == [("ord", 10)]
    clock.time += 10
    made.note("ord:{9}", "1")
    assert len(made) == 2
    assert made.find("pos:{other}") is None
    assert len(made) == 1


def test_floors_of_a_kind_live_as_long_as_its_values() -> None:
    clock = Clock()
    made = Committed(1_000, clock=clock)
    made.begin("pos", 1)
    made.begin("ord", 86_400)
    for key in ("pos:{a}", "ord:{a}", "else:{a}"):
        made.distrust(key)
    clock.time += 1
    assert (made.find("pos:{a}"), made.kept_for("pos:{b}")) == (None, 1)
    assert made.find("ord:{a}") is not None
    clock.time += 999
    assert made.find("else:{a}") is None
    assert made.find("ord:{a}") is not None


def test_longer_ttl_lengthens_floors_and_notes_evicted_ones() -> None:
    """`forgotten_at` gives the time of the newest floor that was evicted too early for the longer TTL."""
    clock = Clock()
    made = Committed(10, clock=clock)
    made.distrust("gone")
    clock.time += 9
    made.distrust("k")
    clock.time += 2
    assert made.find("gone") is None
    assert made.forgotten_at("k") == 100.0
    made.keep_for(600)
    clock.time += 597
    assert made.find("k") is not None
    clock.time += 1
    assert made.find("k") is None
    assert made.forgotten_at("k") == 109.0
    made.keep_for(5)
    made.distrust("k")
    clock.time += 599
    assert made.find("k") is not None


# Near cache


async def test_reads_under_a_longer_plan_lengthen_floors_each_time() -> None:
    """A key that was read is remembered with its plan, since a later plan may serve its values for longer."""
    aside = CacheAside(MemoryCache(), Breaker(5, 60), keep_seconds=1)
    found = []
    for ttl_ms in (1_000, 60_000, 30_000, 90_000):
        plan: Plan[Position] = Plan(codec=POSITION, ttl_ms=ttl_ms)
        for key in ("pos:{a}", "pos:{a}", "pos:{b}"):
            await aside.read(key, plan)
        found.append(aside.committed.kept_for("pos:{c}"))
    assert found == [1, 60, 60, 90]


def test_value_invalidated_while_it_loads_is_not_kept() -> None:
    """The notice of a change comes between the beginning and the end of a load."""
    near = NearCache(10)
    token = near.begin("k")
    near.invalidated(["k"])
    near.end("k", token, "old", now() + 60)
    assert near.get("k") is MISSING
    for end in (near.clear, lambda: near.invalidated(None)):
        token = near.begin("k")
        end()
        near.end("k", token, "old", now() + 60)
        assert near.get("k") is MISSING
    token = near.begin("k")
    near.end("k", token, "new", now() + 60)
    assert near.get("k") == "new"


def test_the_near_cache_is_bounded_and_its_values_end() -> None:
    near = NearCache(3)
    for n in range(10):
        near.end(f"k{n}", near.begin(f"k{n}"), n, now() + 60)
    assert len(near) == 3
    assert [near.get(f"k{n}") for n in (6, 7, 9)] == [MISSING, 7, 9]
    near.end("short", near.begin("short"), 1, now() - 0.001)
    assert near.get("short") is MISSING


# Names


def test_missing_is_one_falsy_thing_that_prints_its_name() -> None:
    assert not MISSING
    assert repr(MISSING) == "MISSING"
    assert type(MISSING)() is MISSING
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING


def test_keys_are_the_documented_ones() -> None:
    keys = Keys("qts:")
    assert keys.key(CacheType.PRICE, "005930") == "qts:price:{005930}"
    assert keys.position("005930") == "qts:pos:{005930}"
    assert keys.position("005930", "second") == "qts:pos:{005930}:second"
    assert keys.key(CacheType.STRATEGY, "K:1", "lots") == "qts:strat:{K:1}:lots"
    assert keys.key(CacheType.STRATEGY, "K", "a:b", "50%") == "qts:strat:{K}:a%3Ab:50%25"
    assert keys.position("005930", "a:b") == "qts:pos:{005930}:a%3Ab"
    assert keys.book("005930") == ("qts:book:{005930}:bid", "qts:book:{005930}:ask", "qts:book:{005930}")


texts = st.text(st.sampled_from("a:%{}3AB") | st.characters(codec="utf-8"), max_size=6)
parts = st.lists(texts, min_size=1, max_size=4).map(tuple)


@given(st.tuples(texts, texts), st.tuples(texts, texts))
def test_two_positions_never_have_one_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    keys = Keys()
    assert (keys.position(*one) == keys.position(*other)) == (one == other)


@given(st.lists(st.tuples(st.sampled_from(CacheType), parts), min_size=2, max_size=20, unique=True))
@example([(CacheType.STRATEGY, names) for names in (("x", "a:b", "c"), ("x", "a", "b:c"), ("x", "a", "b", "c"))])
@example([(CacheType.STRATEGY, names) for names in (("x",), ("x", ""), ("x", "", ""), ("x", ":"), ("x", "%3A"))])
def test_two_names_never_make_one_key(names: list[tuple[CacheType, tuple[str, ...]]]) -> None:
    keys = Keys()
    assert len({keys.key(kind, *one) for kind, one in names}) == len(names)


@pytest.mark.parametrize(
    ("kind", "names", "field"),
    [
        (CacheType.PRICE, ("\ud800",), "symbol"),
        (CacheType.ORDERBOOK, ("\udfff",), "symbol"),
        (CacheType.POSITION, ("005930", "a\ud800"), "account"),
        (CacheType.RISK, ("\ud800",), "account"),
        (CacheType.ORDER, ("\ud800",), "order_id"),
        (CacheType.STRATEGY, ("\ud800",), "strategy_id"),
        (CacheType.STRATEGY, ("s", "\ud800"), "name"),
    ],
)
def test_name_that_no_server_takes_is_named_in_its_error(kind: CacheType, names: tuple[str, ...], field: str) -> None:
    with pytest.raises(InvalidRecord) as caught:
        Keys().key(kind, *names)
    assert caught.value.field == field


@given(st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=2), st.lists(st.integers(0, 2**63 - 1), min_size=2))
def test_of_two_versions_the_greater_text_is_the_newer(one: list[int], other: list[int]) -> None:
    assert (version_text(*one) < version_text(*other)) == (one < other)


# Codecs

money = st.decimals(min_value=-(10**10) + 1, max_value=10**10 - 1, places=8)
instants = st.datetimes(timezones=st.just(dt.UTC))
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(money, st.none() | money, instants, st.none() | instants, names)
def test_positions_come_back_to_the_last_digit(
    qty: Decimal, mark: Decimal | None, at: dt.datetime, marked_at: dt.datetime | None, symbol: str
) -> None:
    given_ = position(3, symbol, qty=qty, mark_price=mark, updated_at=at, marked_at=marked_at)
    found = POSITION.decode(POSITION.encode(given_))
    assert found == given_
    assert found.qty.as_tuple() == qty.as_tuple()


@given(money, money, instants)
def test_quotes_and_orders_come_back(price: Decimal, bid: Decimal, at: dt.datetime) -> None:
    with any_time():
        quote = Quote(symbol="S", price=price, bid=bid, quoted_at=at)
        assert QUOTE.decode(QUOTE.encode(quote)) == quote
        order = OrderState(
            order_id="1", symbol="S", account="main", side="BUY", qty=price, filled_qty=bid, status="NEW", updated_at=at
        )
        assert ORDER.decode(ORDER.encode(order)) == order


parameters = st.one_of(st.text(), st.integers(), st.booleans(), money, st.lists(st.integers() | st.text(), max_size=3))


@given(st.dictionaries(names, money), st.dictionaries(names, parameters))
def test_limits_and_parameters_come_back_in_their_types(limits: dict[str, Decimal], given_: dict[str, Any]) -> None:
    risk = RiskLimits(account="main", limits=limits)
    assert RISK.decode(RISK.encode(risk)) == risk
    try:
        strategy = StrategyParameters(strategy_id="s", parameters=given_)
        fields = STRATEGY.encode(strategy)
    except InvalidRecord:
        return  # half a surrogate pair, or a NUL: the database would not take it either
    found = STRATEGY.decode(fields)
    assert found == strategy
    assert [type(value) for value in found.parameters.values()] == [type(value) for value in given_.values()]


def test_instant_of_another_zone_comes_back_in_utc() -> None:
    """The codec of a quote stores instants in UTC."""
    seoul = dt.datetime(2026, 11, 20, 9, tzinfo=dt.timezone(dt.timedelta(hours=9)))
    fields = QUOTE.encode(Quote(symbol="S", price=Decimal(1), quoted_at=seoul))
    assert json.loads(fields["json"])["quoted_at"] == "2026-11-20T00:00:00+00:00"
    assert QUOTE.decode(fields).quoted_at == seoul


def test_a_position_of_another_zone_is_read_in_utc() -> None:
    fields = POSITION.encode(position(1))
    elsewhere = json.loads(fields["json"]) | {"updated_at": "2026-11-20T09:00:00+09:00"}
    found = POSITION.decode(fields | {"json": json.dumps(elsewhere)}).updated_at
    assert (found, found.tzinfo) == (dt.datetime(2026, 11, 20, tzinfo=dt.UTC), dt.UTC)


@pytest.mark.parametrize(
    "change",
    [
        {"qty": "x"}, {"qty": "Infinity"}, {"qty": "NaN"}, {"qty": None}, {"last_ledger_id": "1.5"},
        {"updated_at": "2026-11-20T00:00:00"}, {"updated_at": "9999-12-31T23:00:00-09:00"},
    ],
)  # fmt: skip
def test_fields_of_another_layout_are_foreign(change: dict[str, object]) -> None:
    fields = POSITION.encode(position(1))
    content = json.loads(fields["json"])
    assert POSITION.decode(fields | {"json": json.dumps(content)}) == position(1)
    with pytest.raises(ForeignRecord):
        POSITION.decode(fields | {"json": json.dumps(content | change)})
    without = {name: value for name, value in content.items() if name not in change}
    for spoiled in ({"v": "1", "json": json.dumps(without)}, fields | {"v": "2"}, {"v": "1"}, {"json": fields["json"]}):
        with pytest.raises(ForeignRecord):
            POSITION.decode(spoiled)


def test_limits_that_are_no_numbers_are_foreign() -> None:
    for limit in ("NaN", "", None):
        with pytest.raises(ForeignRecord):
            RISK.decode({"v": "1", "json": json.dumps({"account": "main", "limits": {"a": limit}})})


@pytest.mark.parametrize(
    "value", [1.5, Decimal(1), dt.datetime.now(dt.UTC), {"a": {1: 2}}, [(1,)], {"a": [0.1]}, ["\ud800"]]
)
def test_json_refuses_values_that_it_would_change(value: object) -> None:
    with pytest.raises(InvalidRecord):
        JsonCodec[object]().encode(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_json_comes_back(value: object) -> None:
    codec = JsonCodec[object]()
    assert codec.decode(codec.encode(value)) == codec.copy(value) == value


def parts_that_change(value: object) -> set[int]:
    """The identities of all lists and dicts in a value."""
    if not isinstance(value, list | dict):
        return set()
    inner = value.values() if isinstance(value, dict) else value
    return {id(value)}.union(*map(parts_that_change, inner))


def test_copies_share_nothing_that_can_be_changed() -> None:
    value = {"a": [1, {"b": []}], "c": {}}
    assert not parts_that_change(value) & parts_that_change(JsonCodec[object]().copy(value))
    held = StrategyParameters(strategy_id="s", parameters={"levels": [1, [2]], "fast": 5})
    copied = STRATEGY.copy(held)  # type: ignore[attr-defined]
    assert copied == held
    assert not parts_that_change(held.parameters["levels"]) & parts_that_change(copied.parameters["levels"])
    plain = StrategyParameters(strategy_id="s", parameters={"fast": 5})
    assert STRATEGY.copy(plain) is plain  # type: ignore[attr-defined]
    assert POSITION.copy(position(1)) == position(1)
