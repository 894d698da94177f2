"""The statement that books one fill if its position still equals the one that the caller remembers.

It compares the position under its lock. If both are equal, it writes the entry and the position. If not, it writes
nothing and returns no row.
"""

from __future__ import annotations

from typing import Final

from qts_data.database.pipeline import Statement
from qts_data.repositories.book.booking import valuation
from qts_data.repositories.book.ledger_rows import COLUMNS

__all__ = ["EXPECTED", "WRITE_NEXT", "WRITE_NEXT_SCOPED", "WRITTEN"]

WRITTEN: Final = [column for column in COLUMNS if column not in {"id", "recorded_at"}]
"""Columns that `WRITE_NEXT` binds, before the expected values of the position."""
EXPECTED: Final = ["last_ledger_id", "qty", "cost_basis", "realized_pnl"]
"""Columns of the expected values. `WRITE_NEXT_SCOPED` binds two more: an array of other ids, and the scope's kinds."""
_number: Final = {column: f"${number}" for number, column in enumerate(WRITTEN, 1)}
_expected: Final = {column: f"${number}" for number, column in enumerate(EXPECTED, len(WRITTEN) + 1)}
_OTHER_IDS: Final = f"${len(WRITTEN) + len(EXPECTED) + 1}"
_KINDS: Final = f"${len(WRITTEN) + len(EXPECTED) + 2}"
_EXPOSURE, _UNREALIZED, _SHARE = valuation(
    f"({_number['position_qty']} * p.mark_price)", _number["position_cost_basis"], "p.marked_equity"
)
_UNSCOPED: Final = f"""\
           -- The full path refuses an id without a scope if the broker's ids have one.
           AND NOT EXISTS (SELECT FROM id_scopes AS s WHERE s.broker = {_number["broker"]})
"""
_LOOK: Final = f"""\
           -- The full path decides whether it is the same fill.
           AND NOT EXISTS (
               SELECT FROM t_ledger AS l WHERE l.broker = {_number["broker"]} AND l.account = {_number["account"]}
                  AND l.execution_id = ANY({_OTHER_IDS}::text[])
           )
           -- The full path refuses a scope other than the broker's, and records a new one.
           AND EXISTS (SELECT FROM id_scopes AS s WHERE s.broker = {_number["broker"]} AND s.scope = {_KINDS})
"""


def _statement(name: str, look: str) -> Statement:
    return Statement(
        name,
        f"""
    WITH held AS (
        SELECT FROM positions
         WHERE account = {_number["account"]} AND symbol = {_number["symbol"]}
           AND last_ledger_id = {_expected["last_ledger_id"]}::bigint
           -- A person may have repaired a damaged position, which leaves no entry in the ledger.
           AND qty = {_expected["qty"]}::numeric AND cost_basis = {_expected["cost_basis"]}::numeric
           AND realized_pnl = {_expected["realized_pnl"]}::numeric
           -- The full path checks whether one of them waits for this fill.
           AND NOT EXISTS (SELECT FROM pending_reports)
{look}    ), entry AS (
        INSERT INTO t_ledger ({", ".join(WRITTEN)}, recorded_at)
        SELECT {", ".join(f"{_number[column]}::{COLUMNS[column]}" for column in WRITTEN)}, clock_timestamp()
          FROM held
        RETURNING id
    )
    UPDATE positions AS p
       SET qty = {_number["position_qty"]}, avg_price = {_number["position_avg_price"]},
           cost_basis = {_number["position_cost_basis"]}, realized_pnl = {_number["position_realized_pnl"]},
           last_ledger_id = entry.id, updated_at = clock_timestamp(), exposure_value = {_EXPOSURE},
           unrealized_pnl = {_UNREALIZED}, exposure_pct = {_SHARE}
      FROM entry
     WHERE p.account = {_number["account"]} AND p.symbol = {_number["symbol"]}
 RETURNING entry.id, p.symbol, p.mark_price, p.exposure_value, p.exposure_pct, p.unrealized_pnl, p.marked_at,
           p.updated_at
    """,
    )


WRITE_NEXT: Final = _statement("write_next_fill", _UNSCOPED)
WRITE_NEXT_SCOPED: Final = _statement("write_next_scoped_fill", _LOOK)
"""The statement for a fill whose id has a scope. Such a fill may be booked under another id."""
