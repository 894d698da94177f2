"""What a broker says later about a fill: busts and corrections."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final

from qts_data.contracts.book import LedgerEntry
from qts_data.contracts.id_checks import (
    MAX_ID_LENGTH,
    MAX_NAME_LENGTH,
    check_execution_id,
    check_stored_id,
    checked_scope,
)
from qts_data.contracts.identity import check_identifier
from qts_data.contracts.ids import stored_execution_id
from qts_data.contracts.instants import plausible
from qts_data.contracts.leniency import as_stored
from qts_data.contracts.money import EXACT
from qts_data.errors import InvalidRecord

__all__ = ["Correction", "Reversal"]

_REVERSAL: Final = "/reversal"
"""What the id of a correction gets for the entry that makes room for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversal:
    """The broker takes a fill back: a trade bust (FIX: ExecType H, Trade Cancel).

    Attributes:
        timestamp: When the broker took it back.
        broker: Broker or exchange that says so.
        execution_id: The broker's id of this report, not of the fill.
        reverses: Execution id of the fill that is taken back (FIX tag 19, ExecRefID), as the ledger keeps it.
        account: Account that had traded.
        id_scope: Where the broker's ids restart: what makes the id of this report unique.

    Raises:
        InvalidRecord: A field is of the wrong type, or the ledger could not hold it.
    """

    timestamp: dt.datetime
    broker: str
    execution_id: str
    reverses: str
    account: str = "main"
    id_scope: str = ""

    def __post_init__(self) -> None:
        """Refuse what the ledger could not hold."""
        object.__setattr__(self, "timestamp", plausible("timestamp", self.timestamp))
        for field in ("broker", "account"):
            check_identifier(field, getattr(self, field), shortest=1, longest=MAX_NAME_LENGTH)
        check_execution_id(self.execution_id)
        checked_scope(self.id_scope, self.execution_id)
        check_stored_id("reverses", self.reverses)
        if self.stored_execution_id == self.reverses:
            raise InvalidRecord(field="reverses", reason="a report cannot take itself back")

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same report: broker, account and execution id."""
        return self.broker, self.account, self.stored_execution_id

    @property
    def stored_execution_id(self) -> str:
        """The id of this report as the ledger keeps it."""
        return stored_execution_id(self.id_scope, self.execution_id)

    @property
    def fill_key(self) -> tuple[str, str, str]:
        """The key of the fill."""
        return self.broker, self.account, self.reverses

    def reversal_of(self, fill: LedgerEntry) -> LedgerEntry:
        """The entry that takes the fill back: the opposite trade, with the fee returned."""
        return _opposite(fill, self.timestamp, execution_id=self.execution_id, id_scope=self.id_scope)

    def same_content(self, other: Reversal | Correction) -> bool:
        """Whether two reports agree in all but the time."""
        with as_stored():
            return isinstance(other, Reversal) and replace(self, timestamp=other.timestamp) == other

    def __str__(self) -> str:
        """For messages."""
        name = f"{self.broker}/{self.account}/{self.stored_execution_id}"
        return f"{name}: reverses {self.reverses} at {self.timestamp.isoformat()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """The broker says what a fill should have been (FIX: ExecType G, Trade Correct).

    Attributes:
        entry: The fill as it is right, of the same instrument, under the execution id of this report, which has at
            most 247 characters here.
        corrects: Execution id of the fill that was wrong (FIX tag 19, ExecRefID), as the ledger keeps it.

    Raises:
        InvalidRecord: A field is of the wrong type, or the ledger could not hold it.
    """

    entry: LedgerEntry
    corrects: str

    def __post_init__(self) -> None:
        """Refuse what the ledger could not hold."""
        check_stored_id("corrects", self.corrects)
        for field in ("execution_id", "idempotency_key"):
            value = getattr(self.entry, field)
            if value is not None:
                # The entry that makes room has to have an id, too.
                check_identifier(field, value, shortest=1, longest=MAX_ID_LENGTH - len(_REVERSAL))
        if self.entry.stored_execution_id == self.corrects:
            raise InvalidRecord(field="corrects", reason="a report cannot correct itself")

    @property
    def timestamp(self) -> dt.datetime:
        """When the broker filled the order, by this report."""
        return self.entry.timestamp

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same report: broker, account and execution id."""
        return self.entry.key

    @property
    def fill_key(self) -> tuple[str, str, str]:
        """The key of the fill that was wrong."""
        return self.entry.broker, self.entry.account, self.corrects

    def reversal_of(self, fill: LedgerEntry) -> LedgerEntry:
        """The entry that makes room: the opposite trade, under an id made from this report's."""
        if self.entry.execution_id is None:
            return _opposite(fill, self.timestamp, idempotency_key=f"{self.entry.idempotency_key}{_REVERSAL}")
        return _opposite(
            fill,
            self.timestamp,
            execution_id=f"{self.entry.execution_id}{_REVERSAL}",
            id_scope=self.entry.id_scope,
        )

    def same_content(self, other: Reversal | Correction) -> bool:
        """Whether two reports agree in all but the time."""
        return (
            isinstance(other, Correction) and self.corrects == other.corrects and self.entry.same_content(other.entry)
        )

    def __str__(self) -> str:
        """For messages."""
        return f"{self.entry}, corrects {self.corrects}"


def _opposite(
    fill: LedgerEntry,
    timestamp: dt.datetime,
    *,
    execution_id: str | None = None,
    idempotency_key: str | None = None,
    id_scope: str = "",
) -> LedgerEntry:
    # The fill may be older than a rule that it breaks.
    with as_stored():
        return replace(
            fill,
            timestamp=timestamp,
            side="SELL" if fill.side == "BUY" else "BUY",
            fee=EXACT.minus(fill.fee),
            execution_id=execution_id,
            idempotency_key=idempotency_key,
            id_scope=id_scope,
        )
