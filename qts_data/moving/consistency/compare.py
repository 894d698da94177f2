"""Comparison of two sides of one table."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import defaultdict
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final

from qts_data.moving.consistency.report import Finding, TableReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qts_data.moving.consistency.sides import Item, Side

__all__ = ["compare"]

_exact: Final = Context(prec=120)
_NO_TOLERANCE: Final[dict[str, Decimal]] = {}
_MODULUS: Final = 1 << 256
_SHOWN_NOTES: Final = 20


class _Sum:
    """Count, sums and hash of a group, independent of the order of its rows."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Decimal] = defaultdict(Decimal)
        self.digest = 0

    def add(self, item: Item, fields: frozenset[str] | None) -> None:
        said = [_said(part) for part in item.key]
        for name in sorted(item.fields):
            if fields is None or name in fields:
                value = item.fields[name]
                said.append(f"{name}={_said(value)}")
                if isinstance(value, Decimal):
                    self.sums[name] = _exact.add(self.sums[name], value)
        self.count += 1
        # A sum, not an exclusive or: a row that occurs twice must not cancel out.
        self.digest += int.from_bytes(hashlib.sha256("".join(said).encode("utf-8", "surrogatepass")).digest())
        self.digest %= _MODULUS

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sum) and (self.count, self.digest) == (other.count, other.digest)

    __hash__ = None  # type: ignore[assignment]


def compare(table: str, here: Side, there: Side, *, tolerances: Mapping[str, Decimal] = _NO_TOLERANCE) -> TableReport:
    """Compare a table in both directions.

    Args:
        table: Name of the table.
        here: The database's side.
        there: The other side.
        tolerances: Allowed difference of numbers, by field; without a tolerance they must be equal (1.10 equals 1.1).
    """
    fields = there.fields if here.fields is None else here.fields
    sums_here, sums_there = _sums(here, fields), _sums(there, fields)
    differ = {
        group
        for group in sums_here.keys() | sums_there.keys()
        if sums_here.get(group, _Sum()) != sums_there.get(group, _Sum())
    }
    findings = [Finding(table, "unreadable", where, None, None, reason, where) for where, reason in there.unreadable]
    findings += _rows(table, _of(here, differ), _of(there, differ), fields, tolerances)
    notes = [*here.notes, *there.notes]
    if len(notes) > _SHOWN_NOTES:
        notes = [*notes[:_SHOWN_NOTES], f"and {len(notes) - _SHOWN_NOTES} more notes"]
    return TableReport(
        table=table,
        rows_here=len(here.items),
        rows_there=len(there.items) + len({where.partition(" ")[0] for where, _ in there.unreadable}),
        groups=len(sums_here.keys() | sums_there.keys()),
        groups_different=len(differ),
        sums_here=_total(sums_here),
        sums_there=_total(sums_there),
        findings=tuple(findings),
        notes=tuple(notes),
    )


def _sums(side: Side, fields: frozenset[str] | None) -> dict[tuple[str, ...], _Sum]:
    sums: dict[tuple[str, ...], _Sum] = defaultdict(_Sum)
    for item in side.items:
        sums[item.group].add(item, fields)
    return dict(sums)


def _total(sums: Mapping[tuple[str, ...], _Sum]) -> dict[str, str]:
    total: dict[str, Decimal] = defaultdict(Decimal)
    for group in sums.values():
        for name, value in group.sums.items():
            total[name] = _exact.add(total[name], value)
    return {name: _text(total[name]) for name in sorted(total)}


def _of(side: Side, groups: set[tuple[str, ...]]) -> dict[tuple[str, ...], list[Item]]:
    found: dict[tuple[str, ...], list[Item]] = defaultdict(list)
    for item in side.items:
        if item.group in groups:
            found[item.key].append(item)
    return found


def _rows(
    table: str,
    here: Mapping[tuple[str, ...], list[Item]],
    there: Mapping[tuple[str, ...], list[Item]],
    fields: frozenset[str] | None,
    tolerances: Mapping[str, Decimal],
) -> Iterator[Finding]:
    for key in sorted(here.keys() | there.keys()):
        ours, theirs = here.get(key, []), there.get(key, [])
        name = " ".join(key)
        for which, items in (("here", ours), ("there", theirs)):
            if len(items) > 1:
                where = ", ".join(item.where for item in items if item.where) or None
                yield Finding(
                    table, "duplicate", name, None, f"{len(ours)} times", f"{len(theirs)} times", where or which
                )
        if not theirs:
            if _is_nothing(table, ours[0]):
                continue
            yield Finding(table, "missing there", name, None, _row(ours[0]), None)
        elif not ours:
            if _is_nothing(table, theirs[0]):
                continue
            yield Finding(table, "missing here", name, None, None, _row(theirs[0]), theirs[0].where)
        else:
            for field, mine, other in _different(ours[0], theirs[0], fields, tolerances):
                yield Finding(table, "different", name, field, *_apart(mine, other), theirs[0].where)


def _different(
    ours: Item, theirs: Item, fields: frozenset[str] | None, tolerances: Mapping[str, Decimal]
) -> Iterator[tuple[str, Any, Any]]:
    for field, mine in ours.fields.items():
        if fields is not None and field not in fields:
            continue
        other = theirs.fields.get(field)
        if mine == other and type(mine) is type(other):
            continue
        allowed = tolerances.get(field)
        numbers = [value for value in (mine, other) if isinstance(value, Decimal)]
        if allowed is None or len(numbers) < 2 or _exact.subtract(*numbers).copy_abs() > allowed:
            yield field, mine, other


def _is_nothing(table: str, item: Item) -> bool:
    """Return whether a row is a closed position without quantity, which the other side need not list."""
    return table == "positions" and item.fields["qty"] == 0


def _row(item: Item) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in item.fields.items() if value is not None)


def _said(value: Any) -> str:
    """Return a value as text for the hash.

    The text contains its kind, so that 5 differs from "5" and an empty cell from "empty". It contains its length, so
    that two neighbouring values cannot run together.
    """
    text = _text(value)
    return f"{_kind(value)}{len(text)}:{text}"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, Decimal):
        return "number"
    return "instant" if isinstance(value, dt.datetime) else "text"


def _apart(mine: Any, other: Any) -> tuple[str, str]:
    """Return two values for people, with their kinds where only these differ."""
    if _text(mine) != _text(other):
        return _text(mine), _text(other)
    return f"{_text(mine)} ({_kind(mine)})", f"{_text(other)} ({_kind(other)})"


def _text(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, Decimal):
        return f"{value.normalize(_exact):f}" if value else "0"
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    return str(value)
