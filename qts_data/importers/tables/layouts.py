"""The tables of a book, and by which headers people know their columns, in English and Korean."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from qts_data.importers.tables.table import Column, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DAILY_BARS", "LAYOUTS", "LEDGER", "POSITIONS", "RISK_LIMITS", "STRATEGIES", "SYSTEM"]

_SYMBOL = Column("symbol", "symbol", ("ticker", "code", "종목코드", "종목", "심볼"), required=True, blank=False)
_ACCOUNT = Column("account", "id", ("계좌", "계좌번호"))
_MARKET = Column("market", "text", ("exchange", "시장", "거래소"))
_CURRENCY = Column("currency", "currency", ("ccy", "통화"))
_DESCRIPTION = Column("description", "text", ("note", "설명", "비고"))
_UPDATED_AT = Column("updated_at", "instant", ("last updated", "수정일시", "업데이트"))

LEDGER = Layout(
    "ledger",
    "T_Ledger",
    (
        Column(
            "timestamp", "instant", ("time", "datetime", "date", "trade time", "체결시간", "체결일시", "일시",
             "거래일시"),
            required=True, blank=False,
        ),
        _ACCOUNT,
        _SYMBOL,
        _MARKET,
        Column("side", "side", ("buy/sell", "매매구분", "구분", "매수/매도"), required=True, blank=False),
        Column("qty", "number", ("quantity", "수량", "체결수량"), required=True, blank=False),
        Column("price", "number", ("체결가", "체결단가", "단가", "가격"), required=True, blank=False),
        Column("amount", "number", ("금액", "체결금액", "거래금액")),
        Column("fee", "number", ("commission", "fees", "수수료"), blank=False),
        _CURRENCY,
        Column("fee_currency", "currency", ("수수료통화",)),
        Column("strategy_tag", "text", ("strategy", "전략")),
        Column("order_id", "id", ("order no", "주문번호")),
        Column("broker", "text", ("증권사", "브로커")),
        Column("execution_id", "id", ("exec id", "fill id", "체결번호")),
        Column("reverses", "id", ("취소체결번호",)),
    ),
)  # fmt: skip
"""Fills, in the order of booking. `reverses` names the execution that a row takes back."""

POSITIONS = Layout(
    "positions",
    "Position",
    (
        _ACCOUNT,
        _SYMBOL,
        _MARKET,
        _CURRENCY,
        Column("qty", "number", ("quantity", "수량", "보유수량", "잔고수량"), required=True, blank=False),
        Column(
            "avg_price", "number", ("average price", "avg price", "평균단가", "평단가", "매입단가"),
            required=True, blank=False,
        ),
        Column("cost_basis", "number", ("cost", "매입금액")),
        Column("realized_pnl", "number", ("realized p&l", "실현손익")),
        Column("mark_price", "number", ("price", "current price", "현재가")),
        Column("exposure_value", "number", ("market value", "평가금액")),
        Column("exposure_pct", "ratio", ("exposure", "weight", "비중")),
        Column("unrealized_pnl", "number", ("unrealized p&l", "평가손익")),
        Column("marked_at", "instant", ("price time", "현재가시각")),
        Column("last_ledger_id", "count", ("version",)),
        _UPDATED_AT,
    ),
)  # fmt: skip
"""What is held. `exposure_pct` of 0.05 means 5 %."""

DAILY_BARS = Layout(
    "daily_bars",
    "History",
    (
        Column("date", "date", ("day", "날짜", "일자", "기준일"), required=True, blank=False),
        _SYMBOL,
        _MARKET,
        Column("open", "number", ("시가",), required=True, blank=False),
        Column("high", "number", ("고가",), required=True, blank=False),
        Column("low", "number", ("저가",), required=True, blank=False),
        Column("close", "number", ("종가",), required=True, blank=False),
        Column("volume", "number", ("거래량",), required=True, blank=False),
    ),
)
"""Official bars of trading days."""

_PARAMETER = (
    Column("param_name", "text", ("parameter", "key", "name", "항목", "파라미터"), required=True, blank=False),
    Column("value", "value", ("값", "설정값"), required=True, blank=False),
    Column("value_type", "text", ("type", "타입", "형식")),
    _DESCRIPTION,
    _UPDATED_AT,
)
STRATEGIES = Layout(
    "strategies",
    "Strategy",
    (Column("strategy_id", "text", ("strategy", "전략", "전략명"), required=True, blank=False), *_PARAMETER),
)
"""Parameters of strategies."""

SYSTEM = Layout("system", "Config", _PARAMETER)
"""Settings that belong to no strategy."""

RISK_LIMITS = Layout(
    "risk_limits",
    "Risk Config",
    (
        _ACCOUNT,
        Column("config_key", "text", ("key", "name", "limit", "항목", "한도"), required=True, blank=False),
        Column("value", "ratio", ("값", "한도값"), required=True, blank=False),
        _DESCRIPTION,
        _UPDATED_AT,
    ),
)
"""Risk limits; 12% is 0.12. A row without an account is the default of all accounts."""

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {layout.kind: layout for layout in (LEDGER, POSITIONS, DAILY_BARS, STRATEGIES, SYSTEM, RISK_LIMITS)}
)
"""Every table by what its rows are."""
