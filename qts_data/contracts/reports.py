"""Later reports of a broker about a fill: busts and corrections."""

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
"""Suffix of a correction's id for the entry that reverses the wrong fill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversal:
    """The broker's report that a fill never happened: a trade bust (FIX: ExecType H, Trade Cancel).

    Attributes:
        timestamp: Time at which the broker busted the fill.
        broker: Broker or exchange that sent the report.
        execution_id: The broker's id of this report, not of the fill.
        reverses: Execution id of the busted fill (FIX tag 19, ExecRefID), as the ledger stores it.
        account: Account that had traded.
        id_scope: The scope in which the id of this report is unique.

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
        """Raise `InvalidRecord` for values that the ledger could not store."""
        object.__setattr__(self, "timestamp", plausible("timestamp", self.timestamp))
        for field in ("broker", "account"):
            check_identifier(field, getattr(self, field), shortest=1, longest=MAX_NAME_LENGTH)
        check_execution_id(self.execution_id)
        checked_scope(self.id_scope, self.execution_id)
        check_stored_id("reverses", self.reverses)
        if self.stored_execution_id == self.reverses:
            raise InvalidRecord(field="reverses", reason="a report cannot reverse itself")

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity of the report: broker, account and execution id."""
        return self.broker, self.account, self.stored_execution_id

    @property
    def stored_execution_id(self) -> str:
        """The id of this report as the ledger stores it."""
        return stored_execution_id(self.id_scope, self.execution_id)

    @property
    def fill_key(self) -> tuple[str, str, str]:
        """Key of the busted fill."""
        return self.broker, self.account, self.reverses

    def reversal_of(self, fill: LedgerEntry) -> LedgerEntry:
        """Return the entry that reverses the fill: the opposite trade, with the fee returned."""
        return _opposite(fill, self.timestamp, execution_id=self.execution_id, id_scope=self.id_scope)

    def same_content(self, other: Reversal | Correction) -> bool:
        """Tell whether two reports agree in all fields except the time."""
        with as_stored():
            return isinstance(other, Reversal) and replace(self, timestamp=other.timestamp) == other

    def __str__(self) -> str:
        """Return a text for messages."""
        name = f"{self.broker}/{self.account}/{self.stored_execution_id}"
        return f"{name}: reverses {self.reverses} at {self.timestamp.isoformat()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """The broker's report of the right values of a fill (FIX: ExecType G, Trade Correct).

    Attributes:
        entry: The corrected fill, of the same instrument, under the execution id of this report. That id has at most
            247 characters.
        corrects: Execution id of the wrong fill (FIX tag 19, ExecRefID), as the ledger stores it.

    Raises:
        InvalidRecord: A field is of the wrong type, or the ledger could not hold it.
    """

    entry: LedgerEntry
    corrects: str

    def __post_init__(self) -> None:
        """Raise `InvalidRecord` for values that the ledger could not store."""
        check_stored_id("corrects", self.corrects)
        for field in ("execution_id", "idempotency_key"):
            value = getattr(self.entry, field)
            if value is not None:
                # The reversal needs an id, too: this one with a suffix.
                check_identifier(field, value, shortest=1, longest=MAX_ID_LENGTH - len(_REVERSAL))
        if self.entry.stored_execution_id == self.corrects:
            raise InvalidRecord(field="corrects", reason="a report cannot correct itself")

    @property
    def timestamp(self) -> dt.datetime:
        """Time at which the broker filled the order, by this report."""
        return self.entry.timestamp

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity of the report: broker, account and execution id."""
        return self.entry.key

    @property
    def fill_key(self) -> tuple[str, str, str]:
        """Key of the wrong fill."""
        return self.entry.broker, self.entry.account, self.corrects

    def reversal_of(self, fill: LedgerEntry) -> LedgerEntry:
        """Return the entry that reverses the wrong fill: the opposite trade, under an id made from this report's."""
        if self.entry.execution_id is None:
            return _opposite(fill, self.timestamp, idempotency_key=f"{self.entry.idempotency_key}{_REVERSAL}")
        return _opposite(
            fill,
            self.timestamp,
            execution_id=f"{self.entry.execution_id}{_REVERSAL}",
            id_scope=self.entry.id_scope,
        )

    def same_content(self, other: Reversal | Correction) -> bool:
        """Tell whether two reports agree in all fields except the time."""
        return (
            isinstance(other, Correction) and self.corrects == other.corrects and self.entry.same_content(other.entry)
        )

    def __str__(self) -> str:
        """Return a text for messages."""
        return f"{self.entry}, corrects {self.corrects}"


def _opposite(
    fill: LedgerEntry,
    timestamp: dt.datetime,
    *,
    execution_id: str | None = None,
    idempotency_key: str | None = None,
    id_scope: str = "",
) -> LedgerEntry:
    # The fill may have been stored before a rule that it breaks.
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
