"""Output of the plan, the comparison and the state of a move."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from qts_data.terminal.console import console, notes
from qts_data.terminal.table import Table

if TYPE_CHECKING:
    from qts_data.moving import MoveStatus, Plan
    from qts_data.moving.consistency import ConsistencyReport


__all__ = ["print_plan", "print_report", "print_status"]


_SHOWN = 50


def print_plan(found: Plan) -> None:
    """Print a line for each sheet, then all problems."""
    table = Table(("rows are", "sheet"), ("rows", "problems", "notes"))
    for one in found.tables:
        counts = (f"{one.rows:,}", str(len(one.problems)), str(len(one.notes)))
        table.add((one.kind, one.sheet or "(none)", *counts), style="red" if one.problems else "")
    table.print()
    console.print(
        f"{found.openings:,} positions have no fills and will be opened; {found.reads} calls of the API", soft_wrap=True
    )
    wrong = [problem for one in found.tables for problem in one.problems] + list(found.disagreements)
    for text in wrong[:_SHOWN]:
        notes.print(f"problem: {text}", soft_wrap=True)
    if len(wrong) > _SHOWN:
        notes.print(f"and {len(wrong) - _SHOWN:,} more")


def print_report(report: ConsistencyReport) -> None:
    """Print sums first, then the differences."""
    table = Table(("table",), ("rows here", "rows there", "groups", "different", "findings"))
    for one in report.tables:
        counts = (one.rows_here, one.rows_there, one.groups, one.groups_different, len(one.findings))
        table.add((one.table, *(f"{count:,}" for count in counts)), style="red" if one.findings else "green")
    table.print()
    for one in report.tables:
        for name, here in one.sums_here.items():
            there = one.sums_there.get(name, "0")
            console.print(f"  sum of {one.table}.{name}: {here}" + ("" if here == there else f" here, {there} there"))
    for finding in report.findings[:_SHOWN]:
        what = f"{finding.kind} {finding.field}" if finding.field else finding.kind
        sides = f"here {finding.here or '-'}, there {finding.there or '-'}"
        where = f" ({finding.where})" if finding.where else ""
        console.print(f"{finding.table} {finding.key}{where}: {what}: {sides}", soft_wrap=True)
    if len(report.findings) > _SHOWN:
        console.print(f"and {len(report.findings) - _SHOWN:,} more; --json shows all of them", soft_wrap=True)
    for one in report.tables:
        for note in one.notes[:5]:
            notes.print(f"note: {note}", soft_wrap=True)
    if report.consistent:
        console.print(f"both sides agree, to the last digit ({report.seconds:.1f} s)", soft_wrap=True)


def print_status(found: MoveStatus) -> None:
    """Print phase, copy, comparisons, outbox, and whether a rollback is open."""
    since = f", since {found.phase_since:%Y-%m-%d %H:%M} UTC" if found.phase_since else ""
    console.print(f"phase     {found.phase or 'not begun'}{since}", soft_wrap=True)
    for kind, (done, total) in found.copied.items():
        console.print(f"copied    {kind}: {done:,} of {total:,}", soft_wrap=True)
    if found.verified_at is not None:
        console.print(
            f"verified  {found.verified_at:%Y-%m-%d %H:%M} UTC: {found.mismatches} differences; "
            f"{found.clean_verifications} without one in a row since the phase began"
        )
    outbox = found.outbox
    lag = 0.0 if outbox.lag is None else outbox.lag.total_seconds()
    console.print(
        f"outbox    {'enabled' if outbox.active else 'disabled'}, {outbox.pending:,} pending, {outbox.dead:,} dead, "
        f"{outbox.delivered:,} delivered, lag {lag:.1f} s"
    )
    if outbox.last_error and outbox.failures:
        console.print(f"          {outbox.failures} failures since: {outbox.last_error}", soft_wrap=True)
    if found.phase == "shadow":
        console.print("way back  open: rollback")
    elif found.phase == "cutover" and found.rollback_until is not None:
        is_open = found.rollback_until > dt.datetime.now(dt.UTC)
        until = f"{found.rollback_until:%Y-%m-%d %H:%M} UTC"
        console.print(f"way back  {'open until' if is_open else 'closed since'} {until}", soft_wrap=True)
