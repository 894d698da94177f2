"""Every exception that may leave the package, grouped by what the caller does next.

An engine catches by class, never by message text:

* fix the settings - `ConfigurationError`;
* try again later - `DatabaseUnavailable`, `SourceUnavailable`;
* run the unit of work again - `TransactionConflict`;
* look before trying again - `OutcomeUnknown`;
* repair the input - `InvalidRecord`, `ConstraintViolated` and its children, `LedgerConflict`;
* read again - `NotFound`, `StaleWrite`;
* deploy or migrate - `SchemaMismatch`;
* ask somebody else - `NotSupported`;
* compare and repair - `DataConsistencyError`;
* wait for the engine to leave FAIL or LOCKDOWN - `WritesRefused`;
* wait for room in a queue - `TickQueueFull`;
* open another writer - `WriterClosed`;
* wait for the end of another process - `SpoolInUse`;
* look at the local disk - `SpoolRefused`, which is an `OSError`, too.

The manager of the cache raises one `CacheError` only: `CacheClosed`, after `close`. A cache itself raises all of them.
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
    """Whether the same call can succeed later without a change by anybody."""

    def __str__(self) -> str:
        """The message; the class's own summary where none was given."""
        if self.args:
            return str(self.args[0])
        return (self.__class__.__doc__ or self.__class__.__name__).strip().splitlines()[0]


class ConfigurationError(QtsDataError):
    """A setting, a right or the server itself does not fit; fix it and start again."""


class InvalidRecord(QtsDataError):
    """A record cannot be stored as it is; nothing of its batch was written.

    Attributes:
        row: Position of the record in its input, counted from 1, or None for a single record.
        field: Name of the field that is wrong.
        reason: What is wrong with it, for a person.
    """

    def __init__(self, *, field: str, reason: str, row: int | None = None) -> None:
        where = "" if row is None else f"row {row}: "
        super().__init__(f"{where}{field}: {reason}")
        self.row = row
        self.field = field
        self.reason = reason

    def at(self, row: int) -> InvalidRecord:
        """The same complaint with the row's position, which only the reader of the file knows."""
        return InvalidRecord(field=self.field, reason=self.reason, row=row)


class NotFound(QtsDataError):
    """What was asked for by its key is not there."""


class StaleWrite(QtsDataError):
    """What was to be changed has changed since it was read; read it again."""


class LedgerConflict(QtsDataError):
    """The ledger holds something that does not go with what was handed over; nothing was booked.

    Attributes:
        row: Position of the fill in its batch, counted from 1, or None for a single one.
        reason: Why the two do not go together.
        booked: What the ledger holds, for a person.
        given: What was handed over, for a person.
    """

    def __init__(self, reason: str, *, booked: str, given: str, row: int | None = None) -> None:
        where = "" if row is None else f"row {row}: "
        super().__init__(f"{where}{reason}; booked: {booked}; given: {given}")
        self.row = row
        self.reason = reason
        self.booked = booked
        self.given = given

    def at(self, row: int) -> LedgerConflict:
        """The same complaint with the fill's position in its batch."""
        return LedgerConflict(self.reason, booked=self.booked, given=self.given, row=row)


class NotSupported(QtsDataError):
    """This data source does not have what was asked for."""


class SourceUnavailable(QtsDataError):
    """A data source other than the database does not answer, or its quota is used up; try again later.

    Attributes:
        maybe_written: Whether the request may have been carried out although no answer came.
    """

    retryable = True

    def __init__(self, message: str | None = None, *, maybe_written: bool = False) -> None:
        super().__init__(*(() if message is None else (message,)))
        self.maybe_written = maybe_written


class SourceRefused(QtsDataError):
    """A data source other than the database refused a request; the same request will be refused again."""


class DataConsistencyError(QtsDataError):
    """Two data sources do not hold the same.

    Attributes:
        report: What was compared, and where it differs.
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
    """No server answers, or it is starting, stopping or full; try again later."""

    retryable = True


class TransactionConflict(DatabaseError):
    """Another transaction got in the way (deadlock, serialization, lock timeout); run the unit of work again."""

    retryable = True


class OutcomeUnknown(DatabaseError):
    """The connection was lost while a commit was under way; look before you try again.

    What is booked by a key of its own (a fill, a tick) may simply be sent again.
    """


class ConstraintViolated(DatabaseError):
    """A rule of the schema refused the row."""


class UniqueViolated(ConstraintViolated):
    """The key is there already."""


class ForeignKeyViolated(ConstraintViolated):
    """The row names another row that is not there, or is still named by one."""


class CheckViolated(ConstraintViolated):
    """A CHECK refused a value."""


class NotNullViolated(ConstraintViolated):
    """A value is missing."""


class StatementTimeout(DatabaseError):
    """The statement ran longer than statement_timeout allows."""


class SchemaMismatch(DatabaseError):
    """The database's revision and the code's differ; run `qts-data db upgrade` or deploy the other version."""


class WritesRefused(QtsDataError):
    """The engine's safety state allows no writes."""


class TickQueueFull(QtsDataError):
    """The writer's queue is at its bound; the tick was not taken."""

    retryable = True


class WriterClosed(ConfigurationError):
    """The writer is not open: it was not started, or it is closed, or it was abandoned."""


class SpoolInUse(ConfigurationError):
    """Another writer holds the spool; it is free when that one ends."""

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
    """The cache did not do what it was asked; the database still can.

    Attributes:
        incident: The same object for all calls that failed together, such as those of one lost connection.
    """

    retryable = True

    def __init__(self, message: str | None = None, *, incident: object = None) -> None:
        super().__init__(*(() if message is None else (message,)))
        self.incident = incident


class CacheUnavailable(CacheError):
    """No cache server answers, or it refuses."""


class CacheTimeout(CacheError):
    """The cache server took longer than it may."""


class CacheClosed(CacheUnavailable):
    """The cache was closed and stays closed; make another manager."""

    retryable = False
