"""The tables of a book, and the usual headers of their columns, in English and Korean."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qts_data.contracts import LedgerEntry, Position
from qts_data.contracts.fields import ACCOUNT, MARKET, SYMBOL, UPDATED_AT, sheet_columns
from qts_data.importers.tables.table import Column, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DAILY_BARS", "LAYOUTS", "LEDGER", "POSITIONS", "RISK_LIMITS", "STRATEGIES", "SYSTEM"]

_SYMBOL = Column("symbol", "symbol", SYMBOL, required=True, blank=False)
_ACCOUNT = Column("account", "id", ACCOUNT)
_MARKET = Column("market", "text", MARKET)
_DESCRIPTION = Column("description", "text", ("note", "설명", "비고"))
_UPDATED_AT = Column("updated_at", "instant", UPDATED_AT)


def _columns(record: type[Any]) -> tuple[Column, ...]:
    return tuple(
        Column(name, sheet.kind, sheet.headers, required=sheet.required, blank=sheet.blank)
        for name, sheet in sheet_columns(record).items()
    )


LEDGER = Layout("ledger", "T_Ledger", (*_columns(LedgerEntry), Column("reverses", "id", ("취소체결번호",))))
"""Fills, in the order of booking. `reverses` names the execution that a row reverses."""

POSITIONS = Layout("positions", "Position", _columns(Position))
"""Positions. `exposure_pct` of 0.05 means 5 %."""

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
"""Risk limits. 12% is 0.12. A row without an account is the default of all accounts."""

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {layout.kind: layout for layout in (LEDGER, POSITIONS, DAILY_BARS, STRATEGIES, SYSTEM, RISK_LIMITS)}
)
"""Every table, by the kind of its rows."""
