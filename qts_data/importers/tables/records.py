"""From rows to records, and back to cells."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import zoneinfo
from collections import Counter
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final

from qts_data.contracts import (
    ALL_ACCOUNTS,
    IDEMPOTENCY_PREFIX,
    OHLCV,
    LedgerEntry,
    Position,
    RiskLimit,
    StrategyParameter,
    round_money,
    split_stored_id,
)
from qts_data.contracts.checks import check_amount, check_price, check_symbol
from qts_data.contracts.config import parameter_from_text, parameter_to_text
from qts_data.contracts.fields import defaulted_fields
from qts_data.contracts.identity import check_currency, check_identifier
from qts_data.contracts.instants import plausible, start_of_day
from qts_data.errors import InvalidRecord
from qts_data.importers.tables.cells import cell_of_decimal, clean, read_currency
from qts_data.rules.fill_identity import FillIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qts_data.importers.tables.cells import Cell
    from qts_data.importers.tables.table import Header, Row

__all__ = ["SYSTEM_STRATEGY", "Defaults", "RecordMaker", "row_of"]

SYSTEM_STRATEGY: Final = "system"
"""The strategy under which settings of the Config sheet are stored."""

_NEVER: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_ZERO: Final = Decimal(0)
_DEFAULTED: Final = defaulted_fields(LedgerEntry)
_exact: Final = Context(prec=80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Values for columns that a book lacks or leaves empty.

    Attributes:
        time_zone: IANA name of the zone of the book's times and days.
        account: Account of rows without one.
        market: Market of rows without one.
        currency: Currency of rows without one.
        broker: Broker of rows without one.
        identity: Scopes in which the execution ids of brokers are unique.
    """

    time_zone: str = "Asia/Seoul"
    account: str = "main"
    market: str = "KRX"
    currency: str = "KRW"
    broker: str = "sheet"
    identity: FillIdentity = field(default_factory=FillIdentity)

    def __post_init__(self) -> None:
        """Replace a currency's name by its code."""
        object.__setattr__(self, "currency", read_currency("currency", self.currency))

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """The time zone."""
        return zoneinfo.ZoneInfo(self.time_zone)


class RecordMaker:
    """Makes records from the rows of one table, beginning with its first row.

    A fill without an execution id gets a key from its time, account, symbol, side, quantity, price and order id, and
    from the number of rows before it with the same values. So a row keeps its key when it moves, and two equal fills
    stay two. Rows with the same values that differ in other columns must keep their order.

    Args:
        header: Places of the columns.
        defaults: Values that the book lacks.
    """

    def __init__(self, header: Header, defaults: Defaults) -> None:
        self._header = header
        self._defaults = defaults
        self._alike: Counter[str] = Counter()
        self._make: Callable[[Mapping[str, Any]], Any] = {
            "ledger": self._fill,
            "positions": self._position,
            "daily_bars": self._bar,
            "strategies": self._parameter,
            "system": self._parameter,
            "risk_limits": self._limit,
        }[header.layout.kind]

    def make(self, row: Row) -> Any:
        """Return the record of a row.

        Raises:
            InvalidRecord: The first error in the row; the message names the table, the cell and the field.
        """
        for problem in row.problems:
            raise problem
        try:
            return self._make(row.values)
        except InvalidRecord as error:
            raise self._header.located(error, row.number) from error

    def _fill(self, values: Mapping[str, Any]) -> LedgerEntry:
        given = {name: value for name, value in values.items() if value is not None and name != "reverses"}
        fields: dict[str, Any] = {name: getattr(self._defaults, name) for name in _DEFAULTED} | given
        stored = fields.pop("execution_id", None)
        if stored is None:
            # Narrow characters, as earlier versions read cells: keys are stored, so they must not change.
            narrow = {name: clean(given[name]) for name in ("account", "order_id") if name in given}
            fields["idempotency_key"] = self._key_of(fields | narrow)
        elif stored.startswith(IDEMPOTENCY_PREFIX):
            fields["idempotency_key"] = stored.removeprefix(IDEMPOTENCY_PREFIX)
        else:
            fields["id_scope"], fields["execution_id"] = split_stored_id(stored)
        if "amount" in fields:
            product = round_money(_exact.multiply(fields["qty"], fields["price"]))
            # Books show amounts with fewer decimals, rounded or cut off; quantity and price decide.
            unit = _exact.scaleb(Decimal(1), min(0, int(fields["amount"].as_tuple().exponent)))
            if product != fields["amount"] and _exact.subtract(product, fields["amount"]).copy_abs() >= unit:
                raise InvalidRecord(
                    field="amount", reason=f"is {fields['amount']}, but qty x price is {product.normalize(_exact):f}"
                )
            del fields["amount"]
        return self._defaults.identity.scoped(LedgerEntry(**fields))

    def _key_of(self, fields: Mapping[str, Any]) -> str:
        said = [fields["timestamp"].isoformat(), fields["account"], fields["symbol"], fields["side"]]
        said += [f"{Decimal(fields[name]).normalize(_exact):f}" for name in ("qty", "price")]
        said.append(fields.get("order_id") or "")
        digest = hashlib.sha256("\0".join(said).encode()).hexdigest()[:32]
        self._alike[digest] += 1
        return f"row:{digest}:{self._alike[digest]}"

    def _position(self, values: Mapping[str, Any]) -> Position:
        def text(name: str, otherwise: str) -> str:
            found = values.get(name) or otherwise
            if name == "currency":
                check_currency(name, found)
            else:
                check_identifier(name, found, shortest=1, longest=64)
            return str(found)

        qty, average = values["qty"], values["avg_price"]
        check_symbol(values["symbol"])
        check_price("qty", qty)
        check_price("avg_price", average)
        if average < 0:
            raise InvalidRecord(field="avg_price", reason=f"{average:f} is below zero; give a short its sign in qty")
        if values.get("marked_at") is not None:
            plausible("marked_at", values["marked_at"])
        product = round_money(_exact.multiply(qty, average))
        check_amount("cost_basis", product)  # the amount of the fill that would open it
        cost = values.get("cost_basis")
        if cost is None:
            cost = product
        for name in ("cost_basis", "realized_pnl", "exposure_value", "unrealized_pnl"):
            if values.get(name) is not None:
                check_amount(name, values[name])
        return Position(
            account=text("account", self._defaults.account),
            symbol=values["symbol"],
            market=text("market", self._defaults.market),
            currency=text("currency", self._defaults.currency),
            qty=qty,
            avg_price=average,
            cost_basis=cost,
            realized_pnl=values.get("realized_pnl") or _ZERO,
            mark_price=values.get("mark_price") if values.get("marked_at") is not None else None,
            exposure_value=values.get("exposure_value"),
            exposure_pct=values.get("exposure_pct"),
            unrealized_pnl=values.get("unrealized_pnl"),
            marked_at=values.get("marked_at") if values.get("mark_price") is not None else None,
            last_ledger_id=values.get("last_ledger_id") or 0,
            updated_at=values.get("updated_at") or _NEVER,
        )

    def _bar(self, values: Mapping[str, Any]) -> OHLCV:
        return OHLCV(
            time=start_of_day("date", values["date"], self._defaults.zone),
            symbol=values["symbol"],
            source="",
            open=values["open"],
            high=values["high"],
            low=values["low"],
            close=values["close"],
            volume=values["volume"],
            tick_count=0,
        )

    def _parameter(self, values: Mapping[str, Any]) -> StrategyParameter:
        name, value, kind = values["param_name"], values["value"], values.get("value_type")
        check_identifier("param_name", name, shortest=1, longest=256)
        if kind is not None:
            kind = kind.casefold()
            if kind not in {"string", "int", "decimal", "bool", "json"}:
                raise InvalidRecord(field="value_type", reason=f"{kind!r} is none of string, int, decimal, bool, json")
            value = parameter_from_text("value", _text_of(value), kind)
        strategy = values.get("strategy_id") or SYSTEM_STRATEGY
        check_identifier("strategy_id", strategy, shortest=1, longest=256)
        parameter_to_text("value", value)
        return StrategyParameter(
            strategy_id=strategy,
            param_name=name,
            value=value,
            description=values.get("description"),
            updated_at=values.get("updated_at") or _NEVER,
        )

    @staticmethod
    def _limit(values: Mapping[str, Any]) -> RiskLimit:
        account = values.get("account") or ALL_ACCOUNTS
        check_identifier("account", account, shortest=1, longest=64)
        check_identifier("config_key", values["config_key"], shortest=1, longest=256)
        check_price("value", values["value"])
        return RiskLimit(
            account=account,
            config_key=values["config_key"],
            value=values["value"],
            description=values.get("description"),
            updated_at=values.get("updated_at") or _NEVER,
        )


def _text_of(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def row_of(record: object, *, zone: dt.tzinfo = dt.UTC, **more: object) -> dict[str, Cell]:
    """Return the cells of a record by field name: numbers where a sheet stores them exactly, times as text with offset.

    Args:
        record: A record that has a table.
        zone: Zone of the days of bars.
        more: Fields in addition to those of the record.
    """
    names = getattr(type(record), "__dataclass_fields__", {})
    values = {name: getattr(record, name) for name in names} | more
    if isinstance(record, LedgerEntry):
        values["execution_id"] = record.stored_execution_id
    if isinstance(record, OHLCV):
        values["date"] = values.pop("time").astimezone(zone).date()
    return {name: _cell(value) for name, value in values.items()}


def _cell(value: object) -> Cell:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return _cell(Decimal(value))
    if isinstance(value, Decimal):
        return cell_of_decimal(value)
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False, default=str)
