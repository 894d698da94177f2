"""One fill in one round trip, for a writer that remembers the position.

The server compares the remembered position with the stored one, under the position's lock. If they are equal, it
writes and commits the entry and the position. Otherwise nothing is written, and the fill takes the longer way of
`booking`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qts_data.database.pipeline import COMMIT, Pipeline, array
from qts_data.repositories.book.booking import LOCK, lock_parameter
from qts_data.repositories.book.next_fill import WRITE_NEXT, WRITE_NEXT_SCOPED
from qts_data.rules.average_cost import Holding, Trade, apply
from qts_data.rules.booked import Booked
from qts_data.rules.booking import require_same_instrument
from qts_data.rules.id_scopes import kinds_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qts_data.contracts import BookedFill, LedgerEntry
    from qts_data.database.pipeline import Rows
    from qts_data.repositories.book.booking import Driver, FillKey

__all__ = ["NextFill", "Remembered"]


class Remembered(NamedTuple):
    """A position as the writer last saw it.

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
    """A fill under way, together with its COMMIT.

    Args:
        driver: The connection, in no transaction.
        position: The remembered position that the fill changes.
        entry: The fill.
        other_keys: Other keys under which it may have been booked.

    Raises:
        InvalidRecord: The fill does not match the position.
    """

    def __init__(
        self, driver: Driver, position: Remembered, entry: LedgerEntry, other_keys: Sequence[FillKey] = ()
    ) -> None:
        require_same_instrument(entry, position.market, position.currency)
        after = apply(position.holding, Trade.of(entry))
        self._booked = Booked.of(0, entry, position.holding, after)
        self.pipeline: Pipeline = Pipeline(driver)
        self.pipeline.add(LOCK, lock_parameter([(entry.account, entry.symbol)]))
        values = [*self._booked.row_without_id(), str(position.last_ledger_id), *map(str, position.holding)]
        if other_keys:
            self.pipeline.add(WRITE_NEXT_SCOPED, *values, array(stored for _, _, stored in other_keys), kinds_of(entry))
        else:
            self.pipeline.add(WRITE_NEXT, *values)
        self.pipeline.add(COMMIT)

    def result(self, answers: list[Rows]) -> BookedFill | None:
        """Return the booked fill, read from the pipeline's answers.

        None if the position differs from the remembered one or a report waits. Then nothing is booked.
        """
        written = answers[1]
        if not written:
            return None
        return self._booked._replace(ledger_id=int(written[0][0] or 0)).result(written[0], is_last=True)
