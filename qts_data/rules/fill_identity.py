"""Identity of fills: which reports are of one fill, and in which scope a broker's execution ids are unique."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from qts_data.contracts.book import LedgerEntry
from qts_data.contracts.fields import stored_fields
from qts_data.contracts.ids import (
    parse_scope,
    scope_kinds,
    scope_text,
    split_stored_id,
    stored_execution_id,
)
from qts_data.contracts.reports import Correction, Reversal
from qts_data.errors import ConfigurationError, InvalidRecord, LedgerConflict

__all__ = ["FillIdentity"]

_MIDNIGHT: Final = dt.timedelta(seconds=60)
_CONTENT: Final = tuple(name for name, declared in stored_fields(LedgerEntry).items() if declared.content)
_OPPOSITE: Final = MappingProxyType({"BUY": "SELL", "SELL": "BUY"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FillIdentity:
    """The rules that recognise a redelivered fill.

    Equal content under one key is a redelivery if both fill times are of one trading day, or at most `midnight` apart.
    The time at which a report was sent does not count.

    Attributes:
        time_zone: IANA name of the zone whose days are the trading days.
        market_zones: Zones of single markets that differ, such as `{"NASDAQ": "America/New_York"}`.
        id_scopes: For each broker whose execution ids restart, the scope in which they are unique: one or more of
            `day`, `symbol`, `order` and `side`, divided by commas.
        midnight: Longest difference between two fill times of one fill that lie on different days.

    Raises:
        ConfigurationError: A zone or a scope is unknown.
    """

    time_zone: str = "Asia/Seoul"
    market_zones: Mapping[str, str] = field(default_factory=dict)
    id_scopes: Mapping[str, str] = field(default_factory=dict)
    midnight: dt.timedelta = _MIDNIGHT

    def __post_init__(self) -> None:
        """Check zones and scopes, and store copies."""
        for name in (self.time_zone, *self.market_zones.values()):
            try:
                zoneinfo.ZoneInfo(name)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError):
                reason = f"{name!r} names no time zone; write a name such as Asia/Seoul or UTC"
                raise ConfigurationError(reason) from None
        scopes = {}
        for broker, text in self.id_scopes.items():
            try:
                scopes[broker] = ",".join(scope_kinds(text))
            except InvalidRecord as error:
                raise ConfigurationError(f"the id scope of {broker!r}: {error.reason}") from error
        object.__setattr__(self, "id_scopes", MappingProxyType(scopes))
        object.__setattr__(self, "market_zones", MappingProxyType(dict(self.market_zones)))

    def day_of(self, at: dt.datetime, market: str | None = None) -> dt.date:
        """Return the trading day of an instant: the day of the market's zone, else of `time_zone`."""
        name = self.time_zone if market is None else self.market_zones.get(market, self.time_zone)
        return at.astimezone(zoneinfo.ZoneInfo(name)).date()

    def with_scopes(self, scopes: Mapping[str, str]) -> FillIdentity:
        """Return these rules with the scopes of more brokers.

        Raises:
            ConfigurationError: A scope is unknown, or contradicts the one that is declared already.
        """
        made = replace(self, id_scopes={**self.id_scopes, **scopes})
        for broker in scopes:
            known = self.id_scopes.get(broker)
            if known is not None and known != made.id_scopes[broker]:
                raise ConfigurationError(
                    f"the id scope of {broker!r} is {made.id_scopes[broker]!r} here, and {known!r} in "
                    "QTS_BOOK_ID_SCOPES: the same fill would have two ids"
                )
        return made

    def scoped(self, entry: LedgerEntry) -> LedgerEntry:
        """Return a fill with the scope of its broker's ids. A fill that has one, or needs none, is returned unchanged.

        Raises:
            InvalidRecord: The scope needs an order id, and the fill has none.
        """
        declared = self.id_scopes.get(entry.broker)
        if declared is None or entry.execution_id is None or entry.id_scope:
            return entry
        return replace(entry, id_scope=self._scope_of(declared, entry, entry.side))

    def scoped_report(self, report: Reversal | Correction) -> Reversal | Correction:
        """Return a bust or correction with the scopes of its broker's ids.

        Raises:
            InvalidRecord: The reference to the fill lacks its scope, and the report has too few fields to complete it.
        """
        if isinstance(report, Correction):
            corrects = self._completed("corrects", report.entry.broker, report.corrects, report.entry.symbol)
            return replace(report, entry=self.scoped(report.entry), corrects=corrects)
        declared = self.id_scopes.get(report.broker)
        if declared is None:
            return report
        reverses = self._completed("reverses", report.broker, report.reverses, None)
        if report.id_scope:
            return replace(report, reverses=reverses)
        scope, _ = split_stored_id(reverses)
        of_fill = parse_scope(scope)
        own: dict[str, str] = {kind: part for kind, part in of_fill.items() if kind in {"symbol", "order"}}
        own["day"] = self.day_of(report.timestamp).isoformat()
        if "side" in of_fill:
            own["side"] = _OPPOSITE[of_fill["side"]]
        given = {kind: own[kind] for kind in declared.split(",") if kind in own}
        return replace(report, reverses=reverses, id_scope=scope_text(given))

    def reference(self, line: LedgerEntry, reverses: str) -> str:
        """Return the stored id of the fill that a line reverses. The line gives its symbol, order and opposite side.

        The day is that of the line. A fill of an earlier day must be named by its stored id.
        """
        declared = self.id_scopes.get(line.broker)
        if declared is None or _is_stored(reverses):
            return reverses
        return stored_execution_id(self._scope_of(declared, line, _OPPOSITE[line.side]), reverses)

    def other_keys(self, entry: LedgerEntry) -> tuple[tuple[str, str, str], ...]:
        """Return other keys under which a redelivery of this fill may be booked.

        These are the key of the neighbouring day near midnight, and the key without a scope, from before its
        declaration.
        """
        if not entry.id_scope or entry.execution_id is None:
            return ()
        ids = [entry.execution_id]
        parts = parse_scope(entry.id_scope)
        if "day" in parts:
            day = self.day_of(entry.timestamp, entry.market)
            near = {self.day_of(entry.timestamp + shift, entry.market) for shift in (self.midnight, -self.midnight)}
            if day.isoformat() == parts["day"]:
                ids += [
                    stored_execution_id(scope_text({**parts, "day": other.isoformat()}), entry.execution_id)
                    for other in sorted(near - {day})
                ]
        return tuple((entry.broker, entry.account, one) for one in ids)

    def other_report_ids(self, report: Reversal | Correction) -> tuple[str, ...]:
        """Return other stored ids under which a redelivery of this bust or correction may be booked or pending.

        These are its id with the neighbouring days, and its id from before the declaration of a scope. The caller must
        check whether the times are near enough.
        """
        given = report.entry if isinstance(report, Correction) else report
        if not given.id_scope or given.execution_id is None:
            return ()
        scopes, parts = [""], parse_scope(given.id_scope)
        if "day" in parts:
            day = dt.date.fromisoformat(parts["day"])
            near = [day + dt.timedelta(days=shift) for shift in (-1, 1) if dt.date.min < day < dt.date.max]
            scopes += [scope_text({**parts, "day": one.isoformat()}) for one in near]
        return tuple(stored_execution_id(scope, given.execution_id) for scope in scopes)

    def is_same_report(self, first: Reversal | Correction, second: Reversal | Correction) -> bool:
        """Tell whether two busts or corrections, perhaps under different scopes, are one."""
        if isinstance(first, Correction) and isinstance(second, Correction):
            alike = first.corrects == second.corrects and not _differing(first.entry, second.entry)
            market = first.entry.market
            return alike and self._of_one_day(first.timestamp, second.timestamp, market)
        if isinstance(first, Reversal) and isinstance(second, Reversal):
            return first.reverses == second.reverses and self._of_one_day(first.timestamp, second.timestamp, None)
        return False

    def is_redelivery(self, first: LedgerEntry, second: LedgerEntry) -> bool:
        """Tell whether two reports, perhaps under different scopes, are of one fill."""
        if _differing(first, second):
            return False
        if first.id_scope and second.id_scope and first.id_scope != second.id_scope:
            return abs(first.timestamp - second.timestamp) <= self.midnight
        return self._of_one_day(first.timestamp, second.timestamp, first.market)

    def require_same_fill(self, first: LedgerEntry, second: LedgerEntry) -> None:
        """Refuse a different fill under a key that is already booked.

        Args:
            first: The booked fill.
            second: The fill that arrives with the same key.

        Raises:
            LedgerConflict: Content or trading day differs; the message names the fields and both times.
        """
        said = _said(_differing(first, second))
        said += self._days(first.timestamp, second.timestamp, first.market)
        if said:
            raise LedgerConflict(
                f"another fill has this execution id: {'; '.join(said)}", booked=str(first), given=str(second)
            )

    def require_same_report(self, first: Reversal | Correction, second: Reversal | Correction) -> None:
        """Refuse a different report under an id that is already pending.

        Raises:
            LedgerConflict: Content or trading day differs; the message names the fields and both times.
        """
        said = [] if first.same_content(second) else _different_reports(first, second)
        market = first.entry.market if isinstance(first, Correction) else None
        said += self._days(first.timestamp, second.timestamp, market)
        if said:
            raise LedgerConflict(
                f"another report waits under this execution id: {'; '.join(said)}", booked=str(first), given=str(second)
            )

    def require_same_day(self, first: LedgerEntry, at: dt.datetime, given: object) -> None:
        """Refuse a report that arrives again with the time of another trading day.

        Raises:
            LedgerConflict: The days differ; the message names both times.
        """
        said = self._days(first.timestamp, at, first.market)
        if said:
            raise LedgerConflict(
                f"another report has this execution id: {said[0]}", booked=str(first), given=str(given)
            )

    def _of_one_day(self, first: dt.datetime, second: dt.datetime, market: str | None) -> bool:
        apart = abs(first.astimezone(dt.UTC) - second.astimezone(dt.UTC))
        return apart <= self.midnight or self.day_of(first, market) == self.day_of(second, market)

    def _days(self, first: dt.datetime, second: dt.datetime, market: str | None) -> list[str]:
        if self._of_one_day(first, second, market):
            return []
        zone = self.time_zone if market is None else self.market_zones.get(market, self.time_zone)
        times = " and ".join(at.astimezone(zoneinfo.ZoneInfo(zone)).isoformat() for at in (first, second))
        reason = (
            f"the fill times {times} are of different trading days ({zone}); if the ids of this broker restart, "
            "declare their scope in QTS_BOOK_ID_SCOPES"
        )
        return [reason]

    def _scope_of(self, declared: str, entry: LedgerEntry, side: str) -> str:
        parts: dict[str, str] = {}
        for kind in declared.split(","):
            if kind == "day":
                parts[kind] = self.day_of(entry.timestamp, entry.market).isoformat()
            elif kind == "order":
                if entry.order_id is None:
                    reason = f"is missing: execution ids of {entry.broker!r} are unique in the scope {declared!r} only"
                    raise InvalidRecord(field="order_id", reason=reason)
                parts[kind] = entry.order_id
            else:
                parts[kind] = entry.symbol if kind == "symbol" else side
        return scope_text(parts)

    def _completed(self, name: str, broker: str, reference: str, symbol: str | None) -> str:
        declared = self.id_scopes.get(broker)
        if declared is None or _is_stored(reference):
            return reference
        if declared == "symbol" and symbol is not None:
            return stored_execution_id(scope_text({"symbol": symbol}), reference)
        example = stored_execution_id(scope_text(dict.fromkeys(declared.split(","), "...")), reference)
        raise InvalidRecord(
            field=name,
            reason=f"{reference!r} names no single fill: ids of {broker!r} are unique in the scope {declared!r} only; "
            f"give the stored id, such as {example!r}",
        )


def _is_stored(reference: str) -> bool:
    """Tell whether an id has the ledger's form: with its scope, or an idempotency key."""
    scope, _ = split_stored_id(reference)
    return bool(scope) or reference.startswith("key:")


def _differing(first: LedgerEntry, second: LedgerEntry) -> list[str]:
    return [name for name in _CONTENT if getattr(first, name) != getattr(second, name)]


def _said(names: Sequence[str]) -> list[str]:
    return [f"{', '.join(names)} differ{'s' if len(names) == 1 else ''}"] if names else []


def _different_reports(first: Reversal | Correction, second: Reversal | Correction) -> list[str]:
    if isinstance(first, Correction) and isinstance(second, Correction):
        corrects = ["corrects"] if first.corrects != second.corrects else []
        return _said([*_differing(first.entry, second.entry), *corrects]) or ["they differ"]
    if isinstance(first, Reversal) and isinstance(second, Reversal):
        return _said(["reverses"]) if first.reverses != second.reverses else ["they differ"]
    return ["one reverses the fill, the other corrects it"]
