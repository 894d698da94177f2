"""Every exception that may leave the package, grouped by the caller's next step.

An engine catches by class, never by message text:

* fix the settings - `ConfigurationError`;
* try again later - `DatabaseUnavailable`, `SourceUnavailable`;
* run the unit of work again - `TransactionConflict`;
* look before trying again - `OutcomeUnknown`;
* repair the input - `InvalidRecord`, `ConstraintViolated` and its children, `LedgerConflict`;
* read again - `NotFound`, `StaleWrite`;
* deploy or migrate - `SchemaMismatch`;
* use another data source - `NotSupported`;
* compare and repair - `DataConsistencyError`;
* wait for the engine to leave FAIL or LOCKDOWN - `WritesRefused`;
* wait for room in a queue - `TickQueueFull`;
* open another writer - `WriterClosed`;
* wait for the end of another process - `SpoolInUse`;
* check the local disk - `SpoolRefused`, which is an `OSError`, too.

The manager of the cache raises only one `CacheError`: `CacheClosed`, after `close`. A cache itself raises all of them.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CacheClosed",
    "CacheError",
    "CacheTimeout",
    "CacheUnavailable",
    "CheckViolated",
    "ConfigurationError",
    "ConstraintViolated",
    "DataConsistencyError",
    "DatabaseError",
    "DatabaseUnavailable",
    "ForeignKeyViolated",
    "InvalidRecord",
    "LedgerConflict",
    "NotFound",
    "NotNullViolated",
    "NotSupported",
    "OutcomeUnknown",
    "QtsDataError",
    "SchemaMismatch",
    "SourceRefused",
    "SourceUnavailable",
    "SpoolInUse",
    "SpoolRefused",
    "StaleWrite",
    "StatementTimeout",
    "TickQueueFull",
    "TransactionConflict",
    "UniqueViolated",
    "WriterClosed",
    "WritesRefused",
]


class QtsDataError(Exception):
    """Root of every error of this package."""

    retryable: ClassVar[bool] = False
    """Whether the same call can succeed later without any change by the caller or an operator."""

    def __str__(self) -> str:
        """Return the message, or the summary of the class's docstring if none was given."""
        if self.args:
            return str(self.args[0])
        return (self.__class__.__doc__ or self.__class__.__name__).strip().splitlines()[0]


class ConfigurationError(QtsDataError):
    """A setting, a permission or the server itself does not fit. Correct it and start again."""


class InvalidRecord(QtsDataError):
    """A record cannot be stored. Nothing of its batch was written.

    Attributes:
        row: Position of the record in its input, counted from 1; None for a single record.
        field: Name of the invalid field.
        reason: Reason for the refusal, for a person.
    """

    def __init__(self, *, field: str, reason: str, row: int | None = None) -> None:
        where = "" if row is None else f"row {row}: "
        super().__init__(f"{where}{field}: {reason}")
        self.row = row
        self.field = field
        self.reason = reason

    def at(self, row: int) -> InvalidRecord:
        """Return the same error with the position of the row, which only the reader of the input knows."""
        return InvalidRecord(field=self.field, reason=self.reason, row=row)


class NotFound(QtsDataError):
    """No row has the requested key."""


class StaleWrite(QtsDataError):
    """The row has changed since it was read. Read it again."""


class LedgerConflict(QtsDataError):
    """The ledger holds an entry that contradicts the given one. Nothing was booked.

    Attributes:
        row: Position of the fill in its batch, counted from 1; None for a single one.
        reason: Reason why the two contradict each other.
        booked: The ledger's entry, for a person.
        given: The entry that the caller gave, for a person.
    """

    def __init__(self, reason: str, *, booked: str, given: str, row: int | None = None) -> None:
        where = "" if row is None else f"row {row}: "
        super().__init__(f"{where}{reason}; booked: {booked}; given: {given}")
        self.row = row
        self.reason = reason
        self.booked = booked
        self.given = given

    def at(self, row: int) -> LedgerConflict:
        """Return the same error with the position of the fill in its batch."""
        return LedgerConflict(self.reason, booked=self.booked, given=self.given, row=row)


class NotSupported(QtsDataError):
    """This data source does not have the requested feature."""


class SourceUnavailable(QtsDataError):
    """A data source other than the database does not answer, or its quota is used up. Try again later.

    Attributes:
        maybe_written: Whether the source may have carried out the request although it sent no answer.
    """

    retryable = True

    def __init__(self, message: str | None = None, *, maybe_written: bool = False) -> None:
        super().__init__(*(() if message is None else (message,)))
        self.maybe_written = maybe_written


class SourceRefused(QtsDataError):
    """A data source other than the database refused a request. It will refuse the same request again."""


class DataConsistencyError(QtsDataError):
    """Two data sources hold different data.

    Attributes:
        report: The compared data and the differences.
    """

    def __init__(self, message: str | None = None, *, report: object = None) -> None:
        super().__init__(*(() if message is None else (message,)))
        self.report = report


class DatabaseError(QtsDataError):
    """The database refused a statement.

    Attributes:
        sqlstate: The server's five-character code, or None where no server answered.
        constraint: Name of the constraint that was violated, if any.
    """

    def __init__(
        self, message: str | None = None, *, sqlstate: str | None = None, constraint: str | None = None
    ) -> None:
        super().__init__(*(() if message is None else (message,)))
        self.sqlstate = sqlstate
        self.constraint = constraint


class DatabaseUnavailable(DatabaseError):
    """No server answers, or it is starting, stopping or full. Try again later."""

    retryable = True


class TransactionConflict(DatabaseError):
    """Another transaction interfered (deadlock, serialization, lock timeout). Run the unit of work again."""

    retryable = True


class OutcomeUnknown(DatabaseError):
    """The connection was lost during a commit. Check the outcome before you try again.

    Data with a key of its own (a fill, a tick) may simply be sent again.
    """


class ConstraintViolated(DatabaseError):
    """A rule of the schema refused the row."""


class UniqueViolated(ConstraintViolated):
    """A row with this key already exists."""


class ForeignKeyViolated(ConstraintViolated):
    """The row refers to a row that does not exist, or another row still refers to it."""


class CheckViolated(ConstraintViolated):
    """A CHECK refused a value."""


class NotNullViolated(ConstraintViolated):
    """A value is missing."""


class StatementTimeout(DatabaseError):
    """The statement ran longer than statement_timeout allows."""


class SchemaMismatch(DatabaseError):
    """The revisions of the database and the code differ. Run `qts-data db upgrade` or deploy the other version."""


class WritesRefused(QtsDataError):
    """The engine's safety state allows no writes."""


class TickQueueFull(QtsDataError):
    """The writer's queue is full. The tick was not accepted."""

    retryable = True


class WriterClosed(ConfigurationError):
    """The writer is not open: it was not started, or it was closed or abandoned."""


class SpoolInUse(ConfigurationError):
    """Another writer holds the spool. It is free again when that writer ends."""

    retryable = True


class SpoolRefused(QtsDataError, OSError):
    """The local disk refused the spool.

    Attributes:
        errno: The system's number of the error, or None.
    """

    def __init__(self, message: str | None = None, *, errno: int | None = None) -> None:
        super().__init__(*(() if message is None else (message,)))
        self.errno = errno


class CacheError(QtsDataError):
    """The cache could not carry out a call. The database still can.

    Attributes:
        incident: The same object for all calls that failed together, such as the calls on one lost connection.
    """

    retryable = True

    def __init__(self, message: str | None = None, *, incident: object = None) -> None:
        super().__init__(*(() if message is None else (message,)))
        self.incident = incident


class CacheUnavailable(CacheError):
    """No cache server answers, or it refuses the call."""


class CacheTimeout(CacheError):
    """The cache server did not answer in time."""


class CacheClosed(CacheUnavailable):
    """The cache was closed and stays closed. Make another manager."""

    retryable = False
