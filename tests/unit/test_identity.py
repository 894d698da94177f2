"""Names and ids that look alike are one, and currencies are codes."""

# ruff: noqa: RUF001 - characters that look like others are the subject

from __future__ import annotations

import datetime as dt
import unicodedata
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qts_data.contracts import (
    OHLCV,
    ExecutionLog,
    LedgerEntry,
    OrderState,
    Quote,
    Reversal,
    TickData,
    any_text,
)
from qts_data.contracts.identity import KnownTexts, check_asked, check_currency, check_identifier, check_name, names_of
from qts_data.contracts.leniency import as_stored
from qts_data.errors import InvalidRecord
from qts_data.importers.tables import LEDGER, POSITIONS, Defaults, Header, RecordMaker, read_rows

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
_ONE: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close", "volume"), Decimal(1))
_FILL: dict[str, Any] = {
    "timestamp": NOW, "symbol": "S", "market": "KRX", "side": "BUY", "qty": Decimal(1), "price": Decimal(1),
    "currency": "KRW", "broker": "b", "execution_id": "1",
}  # fmt: skip
_ORDER: dict[str, Any] = {
    "order_id": "1", "symbol": "S", "account": "main", "side": "BUY", "qty": Decimal(1), "filled_qty": Decimal(0),
    "status": "NEW", "updated_at": NOW,
}  # fmt: skip
_LOG: dict[str, Any] = {
    "time": NOW, "order_id": "1", "symbol": "S", "stage": "FILL", "latency_ms": Decimal(1), "success": True,
}  # fmt: skip
NAMED: list[tuple[Callable[..., object], dict[str, Any], tuple[str, ...]]] = [
    (TickData, {"time": NOW, "symbol": "S", "price": Decimal(1), "volume": Decimal(1)}, ("symbol", "source")),
    (OHLCV, {"time": NOW, "symbol": "S", "source": "", "tick_count": 0, **_ONE}, ("symbol", "source")),
    (LedgerEntry, _FILL, ("symbol", "market", "broker", "account", "execution_id", "order_id", "strategy_tag")),
    (LedgerEntry, _FILL | {"execution_id": None}, ("idempotency_key",)),
    (
        Reversal,
        {"timestamp": NOW, "broker": "b", "execution_id": "1", "reverses": "2"},
        ("broker", "account", "execution_id", "reverses"),
    ),
    (ExecutionLog, _LOG, ("order_id", "symbol", "stage", "error_code")),
    (Quote, {"symbol": "S", "price": Decimal(1), "quoted_at": NOW}, ("symbol",)),
    (OrderState, _ORDER, ("order_id", "symbol", "account")),
]
ODD = [
    (" A", "begins with a blank"),
    ("A ", "ends with a blank"),
    ("A\n", "ends with a blank"),
    ("\u3000A", "begins with a blank"),
    ("A\u00a0B", "blank other than the ordinary one, U\\+00A0"),
    ("A\u200bB", "invisible character, U\\+200B"),
    ("\ufeffA", "invisible character, U\\+FEFF"),
    ("A\u3164", "invisible character, U\\+3164"),
    ("A\ufe0f", "invisible character, U\\+FE0F"),
    ("A\tB", "control character, U\\+0009"),
    ("A\x7fB", "control character, U\\+007F"),
    ("A\u2028B", "line separator, U\\+2028"),
    (unicodedata.normalize("NFD", "삼성"), "normal form C"),
    ("e\u0301", "normal form C"),
]


@pytest.mark.parametrize(("text", "reason"), ODD, ids=lambda value: ascii(value)[:30])
def test_an_odd_name_is_refused_by_its_field_in_every_record(text: str, reason: str) -> None:
    for record, values, names in NAMED:
        for name in names:
            with pytest.raises(InvalidRecord, match=f"^{name}: .*{reason}"):
                record(**values | {name: text})
            with any_text():
                record(**values | {name: text})


@pytest.mark.parametrize(("text", "reason"), [("\uff21\uff22", r"U\+FF21; write A"), ("5\uff0eK", r"write \.")])
def test_full_width_ascii_is_refused_in_codes_only(text: str, reason: str) -> None:
    """A code is ASCII everywhere else; an account or an id is a text of its owner."""
    for record, values, names in NAMED:
        for name in names:
            if name in {"symbol", "market", "broker", "source"}:
                with pytest.raises(InvalidRecord, match=f"^{name}: .*full-width .*{reason}"):
                    record(**values | {name: text})
            else:
                assert getattr(record(**values | {name: text}), name) == text


@pytest.mark.parametrize("text", ["005930", "SPY   240119C00475000", "삼성전자", "BRK.B", "ES-Z6", "日経", "😀"])
def test_an_ordinary_name_is_taken(text: str) -> None:
    for record, values, names in NAMED:
        for name in names:
            assert getattr(record(**values | {name: text}), name) == text


def _bare(text: str) -> str:
    composed = unicodedata.normalize("NFC", text)
    seen = (one for one in composed if unicodedata.category(one) not in {"Cc", "Cf", "Zl", "Zp"})
    return "".join(" " if unicodedata.category(one) == "Zs" else one for one in seen).strip()


@given(
    st.text(st.sampled_from(" Aé\u0301e\u200b\u00a0\t\u3164가ᄀ\u1161\n") | st.characters(codec="utf-8"), max_size=6)
)
def test_a_name_that_is_taken_is_its_own_bare_form(text: str) -> None:
    """So two names that people cannot tell apart are never both taken."""
    try:
        check_identifier("name", text, shortest=0, longest=100)
    except InvalidRecord:
        return
    assert text == _bare(text)


def test_questions_refuse_odd_names_and_take_a_lone_text() -> None:
    assert names_of("symbol", "005930") == ["005930"]
    assert names_of("symbol", ("A", "B")) == ["A", "B"]
    check_asked(symbol="A" * 1_000, account=None, source="")
    for names, words in ((["A", 5930], "symbol: must be a str, is int"), (["A "], "symbol: 'A ' ends with a blank")):
        with pytest.raises(InvalidRecord, match=words):
            names_of("symbol", names)  # type: ignore[arg-type]
    with pytest.raises(InvalidRecord, match=r"^account: "):
        check_asked(symbol="A", account=" main")


# Currencies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["KRW", "USD", "USDT", "1INCH", "BTC", "1000SATS"])
def test_a_code_is_a_currency(code: str) -> None:
    assert LedgerEntry(**_FILL | {"currency": code}).fee_currency == code


@pytest.mark.parametrize(
    "text", ["krw", "ＫＲＷ", "원", "₩", "달러", "$", "K", "KRW ", "US$", "KRW\n", "K" * 13, "КRW"]
)
@pytest.mark.parametrize("field", ["currency", "fee_currency"])
def test_what_is_no_code_is_refused_by_records(field: str, text: str) -> None:
    with pytest.raises(InvalidRecord, match=f"^{field}: "):
        LedgerEntry(**_FILL | {field: text})


NAMES = {
    "krw": "KRW", "ＫＲＷ": "KRW", "ｋｒｗ": "KRW", "원": "KRW", "₩": "KRW", "￦": "KRW", "원화": "KRW", " KRW ": "KRW",
    "달러": "USD", "미국달러": "USD", "US$": "USD", "usd": "USD", "€": "EUR", "엔": "JPY", "usdt": "USDT",
    "1inch": "1INCH",
}  # fmt: skip


@pytest.mark.parametrize(("said", "code"), NAMES.items())
def test_a_name_of_a_currency_in_a_table_becomes_its_code(said: str, code: str) -> None:
    assert (fill_of(said).currency, fill_of("KRW", fee_currency=said).fee_currency) == (code, code)
    assert position_of(said).currency == code
    assert Defaults(currency=said).currency == code


@pytest.mark.parametrize("said", ["$", "¥", "동전", "К\u200bRW", "КRW", "1,000", "!"])
def test_a_currency_that_is_ambiguous_or_unknown_is_refused(said: str) -> None:
    with pytest.raises(InvalidRecord, match=r"T_Ledger!.* currency: .*; write its code"):
        fill_of(said)
    with pytest.raises(InvalidRecord, match=r"^currency: "):
        Defaults(currency=said)


def fill_of(currency: str, **more: str) -> LedgerEntry:
    row = {
        "timestamp": "2026-11-20 09:00", "symbol": "005930", "side": "BUY", "qty": 1, "price": 1, "currency": currency,
        "execution_id": "E1", **more,
    }  # fmt: skip
    made: LedgerEntry = _record(LEDGER, row)
    return made


def position_of(currency: str) -> Any:
    return _record(POSITIONS, {"symbol": "005930", "qty": 1, "avg_price": 1, "currency": currency})


def _record(layout: Any, row: dict[str, Any]) -> Any:
    header = Header.of(layout, layout.title, [*row])
    rows = read_rows(header, [[*row.values()]], zone=ZoneInfo("Asia/Seoul"), market="KRX", currency="KRW")
    return RecordMaker(header, Defaults()).make(next(iter(rows)))


def test_currency_cannot_be_asked_for() -> None:
    """Any text is allowed to names; `krw` and `KRW` still cannot be added up. A stored row is read."""
    for name in ("currency", "fee_currency"):
        values = _FILL | {"execution_id": "1", "idempotency_key": None, name: "krw"}
        with any_text(), pytest.raises(InvalidRecord, match=f"^{name}: .*not a currency code"):
            LedgerEntry(**values)
        with as_stored():
            assert getattr(LedgerEntry(**values), name) == "krw"


def test_name_allowed_once_is_refused_outside_the_block() -> None:
    """Names that passed are remembered, but not those that a permission let through."""
    odd = "odd "
    with any_text():
        check_name("symbol", odd)
    with as_stored():
        check_currency("currency", odd)
    with pytest.raises(InvalidRecord, match="ends with a blank"):
        check_name("symbol", odd)
    with pytest.raises(InvalidRecord, match="ends with a blank"):
        check_currency("currency", odd)


class _Likeness(str):
    """A text of another class, equal to a remembered one."""

    __slots__ = ()


@pytest.mark.parametrize("wrong", [[], {}, None, 1, b"KRW"])
def test_no_text_is_refused_by_name_after_a_good_one(wrong: Any) -> None:
    """The look-up of remembered names asks for the class first: a list cannot even be looked up."""
    for check in (check_name, check_currency):
        check("field", "KRW")
        with pytest.raises(InvalidRecord, match="must be a str"):
            check("field", wrong)
    with pytest.raises(InvalidRecord, match="not a currency code"):
        check_currency("currency", _Likeness("KRW"))


@given(st.text(max_size=70))
def test_second_look_at_a_name_answers_as_the_first(name: str) -> None:
    """A remembered name never changes an answer."""

    def answer() -> str:
        try:
            check_name("symbol", name)
        except InvalidRecord as error:
            return str(error)
        return "good"

    def at_length() -> str:
        try:
            check_identifier("symbol", name, shortest=1, longest=64)
        except InvalidRecord as error:
            return str(error)
        return "good"

    assert answer() == answer() == at_length()


def test_remembered_names_are_bounded() -> None:
    known = KnownTexts()
    for number in range(70_000):
        known.remember(f"S{number}")
    assert "S69999" in known
    assert 0 < len(known) <= 65_536
