"""One fill in one round trip, for who remembers the position.

What is remembered is compared on the server, under the position's lock: if it is still so, the entry and the position
are written and committed; if not, nothing is, and the fill takes the longer way of `booking`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from qts_data.database.pipeline import COMMIT, Pipeline, Statement, array
from qts_data.repositories.book.booking import LOCK, lock_parameter, valuation
from qts_data.repositories.book.ledger_rows import COLUMNS
from qts_data.rules.average_cost import Holding, Trade, apply
from qts_data.rules.booked import Booked
from qts_data.rules.booking import require_same_instrument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qts_data.contracts import BookedFill, LedgerEntry
    from qts_data.database.pipeline import Rows
    from qts_data.repositories.book.booking import Driver, FillKey

__all__ = ["EXPECTED", "WRITE_NEXT", "WRITE_NEXT_SCOPED", "WRITTEN", "NextFill", "Remembered"]

WRITTEN: Final = [column for column in COLUMNS if column not in {"id", "recorded_at"}]
"""What `WRITE_NEXT` binds, before what it expects of the position."""
EXPECTED: Final = ["last_ledger_id", "qty", "cost_basis", "realized_pnl"]
"""What it expects. Behind that `WRITE_NEXT_SCOPED` binds an array of other ids under which the fill may be booked."""
_number: Final = {column: f"${number}" for number, column in enumerate(WRITTEN, 1)}
_expected: Final = {column: f"${number}" for number, column in enumerate(EXPECTED, len(WRITTEN) + 1)}
_OTHER_IDS: Final = f"${len(WRITTEN) + len(EXPECTED) + 1}"
_EXPOSURE, _UNREALIZED, _SHARE = valuation(
    f"({_number['position_qty']} * p.mark_price)", _number["position_cost_basis"], "p.marked_equity"
)
_LOOK: Final = f"""\
           -- Whether it is the same fill is decided by the longer way.
           AND NOT EXISTS (
               SELECT FROM t_ledger AS l WHERE l.broker = {_number["broker"]} AND l.account = {_number["account"]}
                  AND l.execution_id = ANY({_OTHER_IDS}::text[])
           )
"""


def _statement(name: str, look: str) -> Statement:
    return Statement(
        name,
        f"""
    WITH held AS (
        SELECT FROM positions
         WHERE account = {_number["account"]} AND symbol = {_number["symbol"]}
           AND last_ledger_id = {_expected["last_ledger_id"]}::bigint
           -- Somebody may have put a damaged position right, which is no entry of the ledger.
           AND qty = {_expected["qty"]}::numeric AND cost_basis = {_expected["cost_basis"]}::numeric
           AND realized_pnl = {_expected["realized_pnl"]}::numeric
           -- Somebody has to look whether one of them waits for this fill.
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


WRITE_NEXT: Final = _statement("write_next_fill", "")
WRITE_NEXT_SCOPED: Final = _statement("write_next_scoped_fill", _LOOK)
"""The same for a fill that may be booked under another id, with a look for that."""


class Remembered(NamedTuple):
    """A position as somebody last saw it.

    Attributes:
        market: Its market.
        currency: Its currency.
        holding: Quantity, cost and realized P&L.
        last_ledger_id: Its version.
    """

    market: str
    currency: str
    holding: Holding
    last_ledger_id: int


class NextFill:
    """A fill on its way, and the COMMIT with it.

    Args:
        driver: The connection, in no transaction.
        position: What the fill goes with.
        entry: The fill.
        other_keys: Other keys under which it may have been booked.

    Raises:
        InvalidRecord: The fill does not go with the position.
    """

    def __init__(
        self, driver: Driver, position: Remembered, entry: LedgerEntry, other_keys: Sequence[FillKey] = ()
    ) -> None:
        require_same_instrument(entry, position.market, position.currency)
        after = apply(position.holding, Trade.of(entry))
        self._booked = Booked.of(0, entry, position.holding, after)
        self.pipeline = Pipeline(driver)
        self.pipeline.add(LOCK, lock_parameter([(entry.account, entry.symbol)]))
        values = [*self._booked.row()[1:], str(position.last_ledger_id), *map(str, position.holding)]
        if other_keys:
            self.pipeline.add(WRITE_NEXT_SCOPED, *values, array(stored for _, _, stored in other_keys))
        else:
            self.pipeline.add(WRITE_NEXT, *values)
        self.pipeline.add(COMMIT)

    def result(self, answers: list[Rows]) -> BookedFill | None:
        """What it did, from what the pipeline answered.

        None, and nothing is booked, if the position is not what was remembered or a report waits.
        """
        written = answers[1]
        if not written:
            return None
        return self._booked._replace(ledger_id=int(written[0][0] or 0)).result(written[0], is_last=True)
