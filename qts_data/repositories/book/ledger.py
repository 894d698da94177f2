"""The ledger: each fill is booked exactly once, and its position changes in the same transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import sqlalchemy as sa

from qts_data.contracts import BookedFill, Correction, LedgerEntry, RejectedEntry, Reversal
from qts_data.contracts.identity import check_asked
from qts_data.contracts.ids import SCOPE_PREFIX, scope_kinds
from qts_data.contracts.instants import utc
from qts_data.database.errors import translated_errors
from qts_data.database.pipeline import driver_connection
from qts_data.database.streaming import stream_rows
from qts_data.errors import InvalidRecord, LedgerConflict, NotFound, TransactionConflict, UniqueViolated
from qts_data.models import LedgerEntry as Entry
from qts_data.models import PendingReport
from qts_data.repositories.book.booking import Booking
from qts_data.repositories.book.id_scopes import change_scope
from qts_data.repositories.book.ledger_rows import COLUMNS, booked_entry
from qts_data.repositories.book.reports import PENDING_COLUMNS, book_report, report_of, settle_reports
from qts_data.rules.fill_identity import FillIdentity

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import BookedEntry
    from qts_data.database.streaming import Stream

__all__ = ["LedgerReader", "LedgerRepository"]

_entry = Entry.__table__.c
_pending = PendingReport.__table__.c
# As text, like all rows that the hot path reads, so that one function converts both.
_ROW: Final[sa.Select[*tuple[Any, ...]]] = sa.select(
    *(sa.cast(_entry[column], sa.Text).label(column) for column in COLUMNS)
)


class LedgerReader:
    """Queries about the ledger, in the transaction of one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get_entry(self, ledger_id: int) -> BookedEntry:
        """Return an entry by its id.

        Raises:
            NotFound: No entry has this id.
        """
        found = await self._first(_ROW.where(_entry.id == ledger_id))
        if found is None:
            raise NotFound(f"the ledger has no entry {ledger_id}")
        return found

    async def list_by_id(self, ledger_ids: Iterable[int]) -> list[BookedEntry]:
        """List entries by their ids, in the order of booking. Ids without an entry are left out."""
        statement = _ROW.where(_entry.id == sa.any_(sa.cast(list(ledger_ids), sa.ARRAY(sa.BigInteger)))).order_by(
            _entry.id
        )
        with translated_errors():
            return [booked_entry(row) for row in await self._connection.execute(statement)]

    async def list_reversals(self, keys: Iterable[tuple[str, str, str]]) -> list[BookedEntry]:
        """List the reversals among these keys (broker, account, stored id), in the order of booking."""
        columns = [list(column) for column in zip(*keys, strict=True)]
        if not columns:
            return []
        given = (
            sa.func.unnest(*(sa.cast(column, sa.ARRAY(sa.Text)) for column in columns))
            .table_valued("broker", "account", "execution_id")
            .render_derived(name="given")
        )
        wanted = sa.tuple_(_entry.broker, _entry.account, _entry.execution_id).in_(sa.select(given))
        statement = _ROW.where(wanted, _entry.reverses_id.is_not(None)).order_by(_entry.id)
        with translated_errors():
            return [booked_entry(row) for row in await self._connection.execute(statement)]

    async def find_entry(self, broker: str, account: str, execution_id: str) -> BookedEntry | None:
        """Return the entry of a stored id: with its scope, or an idempotency key as `key:...`.

        Raises:
            InvalidRecord: No entry can have such a name or id.
        """
        check_asked(broker=broker, account=account, execution_id=execution_id)
        return await self._first(
            _ROW.where(_entry.broker == broker, _entry.account == account, _entry.execution_id == execution_id)
        )

    async def find_entries(self, broker: str, account: str, execution_id: str) -> list[BookedEntry]:
        """List the entries of a broker's execution id in every scope, in the order of booking.

        Raises:
            InvalidRecord: No entry can have such a name or id.
        """
        check_asked(broker=broker, account=account, execution_id=execution_id)
        stored = _entry.execution_id
        scoped = stored.startswith(SCOPE_PREFIX, autoescape=True) & (
            sa.func.substr(stored, sa.func.strpos(stored, "/") + 1) == execution_id
        )
        statement = _ROW.where(_entry.broker == broker, _entry.account == account, (stored == execution_id) | scoped)
        with translated_errors():
            return [booked_entry(row) for row in await self._connection.execute(statement.order_by(_entry.id))]

    async def list_entries(
        self,
        *,
        account: str | None = None,
        symbol: str | None = None,
        strategy_tag: str | None = None,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
        after_id: int = 0,
        newest_first: bool = False,
        limit: int = 1000,
    ) -> list[BookedEntry]:
        """List entries in the order of booking.

        Args:
            account: Only entries of this account.
            symbol: Only entries of this instrument.
            strategy_tag: Only entries of this strategy.
            start: Only fills at this instant or later.
            end: Only fills before this instant.
            after_id: Only entries with a higher id. To page on in `reader(snapshot=True)`, give the last id seen. Ids
                are assigned before COMMIT: an entry may become visible after others with higher ids. A caller that
                follows the ledger by ids alone misses it.
            newest_first: Reverse the order.
            limit: Most entries to return.

        Raises:
            InvalidRecord: `start` or `end` has no time zone, or no entry can have such a name.
        """
        statement = _filtered(account, symbol, strategy_tag, start, end).where(_entry.id > after_id).limit(limit)
        if newest_first:
            statement = statement.order_by(None).order_by(_entry.id.desc())
        with translated_errors():
            return [booked_entry(row) for row in await self._connection.execute(statement)]

    def stream_entries(
        self,
        *,
        account: str | None = None,
        symbol: str | None = None,
        strategy_tag: str | None = None,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
    ) -> Stream[BookedEntry]:
        """Stream all such entries, without a limit, a few thousand at a time.

        Other statements may run in the same transaction beside the stream, and the caller may leave it at any moment.

        Raises:
            InvalidRecord: `start` or `end` has no time zone, or no entry can have such a name.
        """
        return stream_rows(self._connection, _filtered(account, symbol, strategy_tag, start, end), booked_entry)

    async def list_pending_reports(self, *, limit: int = 1000) -> list[Reversal | Correction]:
        """List the busts and corrections whose fill has not arrived, the oldest first."""
        columns = [sa.cast(_pending[column], sa.Text) for column in PENDING_COLUMNS]
        statement = sa.select(*columns).order_by(_pending.received_at, _pending.execution_id).limit(limit)
        with translated_errors():
            return [report_of(row) for row in await self._connection.execute(statement)]

    async def _first(self, statement: sa.Select[*tuple[Any, ...]]) -> BookedEntry | None:
        with translated_errors():
            row = (await self._connection.execute(statement)).first()
        return None if row is None else booked_entry(row)


class LedgerRepository(LedgerReader):
    """Writes to the ledger and, in the same statements, to the positions. It never commits.

    A transaction that books holds the lock of the position until it ends, so keep transactions short.

    Args:
        connection: In a transaction.
        on_booked: Called with each result of a booking, before the commit.
        identity: The rules that recognise a redelivered fill.

    Attributes:
        identity: The same rules.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        on_booked: Callable[[BookedFill], None] | None = None,
        identity: FillIdentity | None = None,
    ) -> None:
        super().__init__(connection)
        self.identity: FillIdentity = identity or FillIdentity()
        self._on_booked = on_booked or (lambda _: None)
        # Advisory locks do not separate tasks of one transaction: one task must not change what another has read.
        self._turn = asyncio.Lock()

    async def record_fill(self, entry: LedgerEntry) -> BookedFill:
        """Book a fill: write the entry, the position and the profit realized by average cost.

        The same (broker, account, execution id) again changes nothing and returns the result of the first booking. So
        after an unknown outcome, send the fill again, even on a later day: only the fill's own time counts.

        Raises:
            LedgerConflict: Another fill, or one of another trading day, is booked under this execution id. The message
                shows both.
            TransactionConflict: Another transaction is booking a fill under this execution id at the same time.
            InvalidRecord: The fill is in another currency or market than its position, or the position would not
                fit its columns.
        """
        scoped = self.identity.scoped(entry)
        async with self._turn:
            booking = await self._read([scoped])
            for error in booking.errors.values():
                raise error
            return (await self._write(booking))[0]

    @overload
    async def record_fills(
        self, entries: Iterable[LedgerEntry | Mapping[str, Any]], *, on_error: Literal["raise"] = "raise"
    ) -> list[BookedFill]: ...

    @overload
    async def record_fills(
        self, entries: Iterable[LedgerEntry | Mapping[str, Any]], *, on_error: Literal["collect"]
    ) -> list[BookedFill | RejectedEntry]: ...

    async def record_fills(
        self,
        entries: Iterable[LedgerEntry | Mapping[str, Any]],
        *,
        on_error: Literal["raise", "collect"] = "raise",
    ) -> list[BookedFill] | list[BookedFill | RejectedEntry]:
        """Book many fills at once, in the order given, by the rules of `record_fill`.

        Args:
            entries: Fills, or the fields of fills.
            on_error: `"raise"` books no fill if one is wrong; `"collect"` books the valid ones.

        Returns:
            One result for each entry, in their order. With `"collect"`, a wrong one gives a `RejectedEntry`.

        Raises:
            InvalidRecord: With `"raise"`; the message names the row, counted from 1, and the field.
            LedgerConflict: With `"raise"`; the message names the row.
        """
        given = list(entries)
        good: list[LedgerEntry] = []
        rows: list[int] = []
        errors: dict[int, InvalidRecord | LedgerConflict] = {}
        for row, item in enumerate(given, 1):
            try:
                good.append(self.identity.scoped(_entry_of(item) if isinstance(item, Mapping) else item))
                rows.append(row)
            except InvalidRecord as error:
                errors[row] = error
                if on_error == "raise":
                    raise error.at(row) from error
        if not good:
            rejected: list[BookedFill | RejectedEntry] = [_rejected(row, given, error) for row, error in errors.items()]
            return rejected
        async with self._turn:
            booking = await self._read(good)
            errors |= {rows[index]: error for index, error in booking.errors.items()}
            if errors and on_error == "raise":
                row, first = min(errors.items())
                raise first.at(row) from first
            booked = await self._write(booking)
        results: dict[int, BookedFill | RejectedEntry] = {rows[index]: result for index, result in booked.items()}
        results |= {row: _rejected(row, given, error) for row, error in errors.items()}
        return [results[row] for row in range(1, len(given) + 1)]

    async def reverse_fill(self, reversal: Reversal) -> BookedFill | None:
        """Book a bust as an entry opposite to its fill. The position is then as if the fill had never happened.

        A reversal that arrives before its fill is stored, and booked when the fill arrives.

        Returns:
            The result; None if the reversal was stored for later.

        Raises:
            LedgerConflict: Another report has reversed the fill, or the id of this report is already used.
        """
        return await self._book_report(reversal)

    async def correct_fill(self, correction: Correction) -> BookedFill | None:
        """Replace a fill by the corrected one: a reversal, and a new entry in the place of the old one.

        A correction that arrives before its fill is stored, and booked when the fill arrives.

        Returns:
            The result of the new fill, with the reversal in `applied`; None if the correction was stored for later.

        Raises:
            LedgerConflict: Another report has reversed the fill, or the id of this report is already used.
            InvalidRecord: The correction is of another instrument than its fill.
        """
        return await self._book_report(correction)

    async def change_id_scope(self, broker: str, scope: str | None) -> None:
        """Record another scope of a broker's execution ids. None removes it. The next scoped fill records its own.

        A fill that was booked under the old scope is not found under the new one. So change the scope between trading
        days, when no fill of the old scope will be sent again.

        Args:
            broker: The broker.
            scope: One or more of `day`, `symbol`, `order` and `side`, divided by commas.

        Raises:
            InvalidRecord: No broker can have this name, or the scope is unknown.
        """
        check_asked(broker=broker)
        kinds = "" if scope is None else ",".join(scope_kinds(scope))
        with translated_errors():
            await change_scope(await driver_connection(self._connection), broker, kinds)

    async def _book_report(self, report: Reversal | Correction) -> BookedFill | None:
        scoped = self.identity.scoped_report(report)
        async with self._turn:
            with _booking_errors():
                booked = await book_report(await driver_connection(self._connection), scoped, self.identity)
        if booked is not None:
            self._on_booked(booked)
        return booked

    async def _read(self, entries: Sequence[LedgerEntry]) -> Booking:
        booking = Booking(entries, self.identity)
        with translated_errors():
            await booking.read(await driver_connection(self._connection))
        return booking

    async def _write(self, booking: Booking) -> dict[int, BookedFill]:
        with _booking_errors():
            driver = await driver_connection(self._connection)
            results = await booking.write(driver)
            if booking.reports_wait:
                await settle_reports(driver, booking, results, self.identity)
        for booked in results.values():
            self._on_booked(booked)
        return results


@contextlib.contextmanager
def _booking_errors() -> Iterator[None]:
    """Translate driver errors. An id that another transaction has just booked is a `TransactionConflict`."""
    try:
        with translated_errors():
            yield
    except UniqueViolated as error:
        raise TransactionConflict(
            "another transaction booked one of these execution ids at the same time; run the unit of work again to see "
            "its booking",
            sqlstate=error.sqlstate,
            constraint=error.constraint,
        ) from error


def _filtered(
    account: str | None,
    symbol: str | None,
    strategy_tag: str | None,
    start: dt.datetime | None,
    end: dt.datetime | None,
) -> sa.Select[*tuple[Any, ...]]:
    check_asked(account=account, symbol=symbol, strategy_tag=strategy_tag)
    statement = _ROW.order_by(_entry.id)
    for column, value in ((_entry.account, account), (_entry.symbol, symbol), (_entry.strategy_tag, strategy_tag)):
        if value is not None:
            statement = statement.where(column == value)
    if start is not None:
        statement = statement.where(_entry.timestamp >= utc("start", start))
    if end is not None:
        statement = statement.where(_entry.timestamp < utc("end", end))
    return statement


def _entry_of(fields: Mapping[str, Any]) -> LedgerEntry:
    try:
        return LedgerEntry(**fields)
    except TypeError as error:
        # Python's message names the missing or unknown field after the name of the constructor.
        raise InvalidRecord(field="fields", reason=str(error).partition("() ")[2] or str(error)) from error


def _rejected(
    row: int, given: Sequence[LedgerEntry | Mapping[str, Any]], error: InvalidRecord | LedgerConflict
) -> RejectedEntry:
    return RejectedEntry(row=row, entry=given[row - 1], reason=str(error))
