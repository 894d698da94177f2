"""Booking of fills in four steps: lock, look up, compute and write. Each step takes a few statements in one round trip.

The locks are advisory and belong to the transaction. A transaction that books holds the *gate* shared. It also holds
the lock of each position that it changes exclusively, so that the rows it read stay valid until it writes. A report
about a fill that the ledger does not hold takes the gate exclusively. Then no other transaction can be booking that
fill at the same time.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from qts_data.contracts import BookedFill
from qts_data.database.pipeline import COMMIT, Pipeline, Statement, array
from qts_data.errors import InvalidRecord, LedgerConflict
from qts_data.repositories.book.id_scopes import READ_SCOPES, brokers_of, record_scopes
from qts_data.repositories.book.ledger_rows import COLUMNS, booked_entry, entry_columns, position_after
from qts_data.rules.average_cost import FLAT, Holding, Trade, apply
from qts_data.rules.booked import Booked
from qts_data.rules.booking import require_same_instrument
from qts_data.rules.fill_rows import decimal
from qts_data.rules.id_scopes import kinds_of, require_scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, TypeAlias

    import psycopg

    from qts_data.contracts import BookedEntry, LedgerEntry, Position
    from qts_data.database.pipeline import Rows
    from qts_data.rules.fill_identity import FillIdentity

    Driver: TypeAlias = psycopg.AsyncConnection[Any]
    PositionKey: TypeAlias = tuple[str, str]
    FillKey: TypeAlias = tuple[str, str, str]
    Refusal: TypeAlias = InvalidRecord | LedgerConflict

__all__ = [
    "GATE",
    "LOCK",
    "RESERVE",
    "Booking",
    "Driver",
    "FillKey",
    "add_entries",
    "add_look",
    "add_positions",
    "half_even",
    "lock_parameter",
    "read_entries",
    "repeated",
    "results_of",
    "valuation",
    "write_positions",
]

_LOCK_CLASS: Final = 0x515453
"""First half of our advisory locks, which keeps them apart from the locks of other programs."""
_GATE_PLACE: Final = 0
_PLACES: Final = 1024
"""Number of locks that all positions share. A transaction that books ten thousand symbols must not fill the lock table.
"""

# With custom plans, the planner would plan each statement again: it expects more rows of an array with unknown length
# than of one fill. Planning takes longer than everything else.
LOCK: Final = Statement(
    "lock_positions",
    "SELECT set_config('plan_cache_mode', 'force_generic_plan', true), "
    f"pg_advisory_xact_lock_shared({_LOCK_CLASS}, {_GATE_PLACE}), pg_advisory_xact_lock({_LOCK_CLASS}, place) "
    "FROM unnest($1::int[]) AS place",
)
GATE: Final = Statement("lock_gate", f"SELECT pg_advisory_xact_lock({_LOCK_CLASS}, {_GATE_PLACE})")
# LATERAL with LIMIT gives one index look-up for each key, independent of the planner's statistics. A plan with a scan
# or a hash join, made while the tables were small, would stay in use while they grow.
READ_POSITIONS: Final = Statement(
    "read_positions",
    "SELECT p.account, p.symbol, p.market, p.currency, p.qty, p.cost_basis, p.realized_pnl "
    "FROM unnest($1::text[], $2::text[]) AS k(account, symbol) CROSS JOIN LATERAL "
    "(SELECT * FROM positions AS p WHERE p.account = k.account AND p.symbol = k.symbol LIMIT 1) AS p",
)
READ_BOOKED: Final = Statement(
    "read_booked",
    f"SELECT {entry_columns('l')} FROM unnest($1::text[], $2::text[], $3::text[]) AS k(broker, account, execution_id) "
    "CROSS JOIN LATERAL (SELECT * FROM t_ledger AS l WHERE l.broker = k.broker AND l.account = k.account "
    "AND l.execution_id = k.execution_id LIMIT 1) AS l",
)
RESERVE: Final = Statement(
    "reserve_ids",
    "SELECT nextval('t_ledger_id_seq'), EXISTS (SELECT FROM pending_reports), clock_timestamp() "
    "FROM generate_series(1, $1::int)",
)
_WRITTEN: Final = [column for column in COLUMNS if column != "recorded_at"]
WRITE_ENTRIES: Final = Statement(
    "write_entries",
    # The clock is read after the lock was taken, so for one position the times follow the order of the ids.
    f"INSERT INTO t_ledger ({', '.join(_WRITTEN)}, recorded_at) SELECT u.*, clock_timestamp() FROM unnest("
    + ", ".join(f"${number}::{COLUMNS[column]}[]" for number, column in enumerate(_WRITTEN, 1))
    + ") AS u",
)

COPY_ENTRIES: Final = f"COPY t_ledger ({', '.join([*_WRITTEN, 'recorded_at'])}) FROM STDIN"
_MANY: Final = 100
"""From this number of entries on, COPY is faster than parameters, although it costs another round trip."""


_TOO_MUCH: Final = "9999999999999999.999999995"
"""From this value on, a value rounded to 8 places has 17 digits before the point."""
_TOO_LARGE_A_SHARE: Final = "999999.9999995"
"""From this value on, a value rounded to 6 places has 7 digits before the point."""


def half_even(expression: str) -> str:
    """Return the SQL of `round_money`. The round() of numeric rounds ties away from zero."""
    return (
        f"CASE WHEN abs({expression} * 1e8 - trunc({expression} * 1e8)) = 0.5 "
        # No division: PostgreSQL gives a quotient 16 digits, independent of the digits of its operands.
        f"THEN round({expression} * 5e7) * 0.00000002 ELSE round({expression}, 8) END"
    )


def valuation(worth: str, cost: str, equity: str) -> tuple[str, str, str]:
    """Return the SQL for exposure_value, unrealized_pnl and exposure_pct.

    Each is NULL if its column could not hold the value: a fill is not refused because of an estimate.

    Args:
        worth: Quantity x price.
        cost: Cost of the quantity.
        equity: Equity at the last valuation.
    """
    fits = f"abs({worth}) < {_TOO_MUCH} AND abs({worth} - {cost}) < {_TOO_MUCH}"
    value = half_even(worth)
    share = f"({value}) / {equity}"
    return (
        f"CASE WHEN {fits} THEN {value} END",
        f"CASE WHEN {fits} THEN {value} - {cost} END",
        f"CASE WHEN {fits} AND abs({share}) < {_TOO_LARGE_A_SHARE} THEN round({share}, 6) END",
    )


_EXPOSURE, _UNREALIZED, _SHARE = valuation("(excluded.qty * p.mark_price)", "excluded.cost_basis", "p.marked_equity")
WRITE_POSITIONS: Final = Statement(
    "write_positions",
    "INSERT INTO positions AS p (account, symbol, market, currency, qty, avg_price, cost_basis, realized_pnl, "
    "last_ledger_id, updated_at) SELECT u.*, clock_timestamp() FROM unnest($1::text[], $2::text[], $3::text[], "
    "$4::text[], $5::numeric[], $6::numeric[], $7::numeric[], $8::numeric[], $9::bigint[]) AS u "
    "ON CONFLICT (account, symbol) DO UPDATE SET qty = excluded.qty, avg_price = excluded.avg_price, "
    "cost_basis = excluded.cost_basis, realized_pnl = excluded.realized_pnl, "
    "last_ledger_id = excluded.last_ledger_id, updated_at = excluded.updated_at, "
    "market = excluded.market, currency = excluded.currency, "
    # The valuation follows the quantity, at the price and the equity of the last valuation.
    f"exposure_value = {_EXPOSURE}, unrealized_pnl = {_UNREALIZED}, exposure_pct = {_SHARE} "
    "RETURNING account, symbol, mark_price, exposure_value, exposure_pct, unrealized_pnl, marked_at, updated_at",
)


def lock_parameter(positions: Iterable[PositionKey]) -> str:
    """Return the lock places of positions in one global order, so that two batches cannot wait for each other."""
    places = {1 + zlib.crc32(f"{account}\0{symbol}".encode()) % _PLACES for account, symbol in positions}
    return array(map(str, sorted(places)))


async def read_entries(driver: Driver, keys: Iterable[FillKey]) -> dict[FillKey, BookedEntry]:
    """Read the entries that are booked under these keys."""
    pipeline = Pipeline(driver)
    add_look(pipeline, keys)
    (rows,) = await pipeline.run()
    return {booked.entry.key: booked for booked in map(booked_entry, rows)}


def add_look(pipeline: Pipeline, keys: Iterable[FillKey]) -> None:
    """Add the statement that reads the entries booked under these keys to a pipeline."""
    pipeline.add(READ_BOOKED, *_columns(keys))


def add_entries(pipeline: Pipeline, booked: Sequence[Booked]) -> None:
    """Add the statement that writes entries to a pipeline."""
    pipeline.add(WRITE_ENTRIES, *_columns([one.row() for one in booked]))


def add_positions(pipeline: Pipeline, booked: Sequence[Booked]) -> None:
    """Add the statement that writes the positions after these entries to a pipeline. `results_of` reads its rows."""
    last = {one.position_key: one for one in booked}
    pipeline.add(WRITE_POSITIONS, *_columns([last[key].position_row() for key in sorted(last)]))


async def write_positions(driver: Driver, positions: Iterable[Position]) -> None:
    """Write positions as given, except their valuation. The caller must hold the gate."""
    rows = [
        [
            one.account,
            one.symbol,
            one.market,
            one.currency,
            *map(str, (one.qty, one.avg_price, one.cost_basis, one.realized_pnl, one.last_ledger_id)),
        ]
        for one in positions
    ]
    if rows:
        pipeline = Pipeline(driver)
        pipeline.add(WRITE_POSITIONS, *_columns(rows))
        await pipeline.run()


def results_of(booked: Sequence[Booked], written: Rows) -> list[BookedFill]:
    """Return the results of entries, from the rows that the statement of `add_positions` returned."""
    stored = {(row[0], row[1]): row for row in written}
    last = {one.position_key: one.ledger_id for one in booked}
    return [one.result(stored[one.position_key], is_last=last[one.position_key] == one.ledger_id) for one in booked]


def _columns(rows: Iterable[Sequence[str | None]]) -> list[str]:
    return [array(column) for column in zip(*rows, strict=True)]


class _Holder(NamedTuple):
    market: str | None
    currency: str | None
    holding: Holding


class Booking:
    """Fills that are about to be booked. Call `read`, check `errors`, then call `write`.

    Args:
        entries: The fills, with the scopes of their ids.
        identity: The rules that recognise a redelivered fill.

    Attributes:
        errors: Reason of each refused fill, by its place in `entries`.
        reports_wait: Whether any bust or correction is pending.
        booked: Entries to be written, by the place of their fill in `entries`.
    """

    def __init__(self, entries: Sequence[LedgerEntry], identity: FillIdentity) -> None:
        self._entries = entries
        self._identity = identity
        self._keys = [entry.key for entry in entries]
        self._other_keys = [identity.other_keys(entry) for entry in entries]
        self.errors: dict[int, Refusal] = {}
        self.reports_wait: bool = False
        self.booked: dict[int, Booked] = {}
        self._locked_at = ""
        self._duplicates: dict[int, BookedFill] = {}
        self._repeats: dict[int, int] = {}
        self._scopes: dict[str, str] = {}
        self._new_scopes: dict[str, str] = {}

    async def read(self, driver: Driver) -> None:
        """Lock the positions, look up booked entries, and compute the new ones. Write nothing."""
        positions = sorted({(entry.account, entry.symbol) for entry in self._entries})
        pipeline = Pipeline(driver)
        pipeline.add(LOCK, lock_parameter(positions))
        pipeline.add(READ_POSITIONS, *_columns(positions))
        add_look(pipeline, [*self._keys, *(key for keys in self._other_keys for key in keys)])
        pipeline.add(RESERVE, str(len(self._entries)))
        pipeline.add(READ_SCOPES, brokers_of(self._entries))
        _, held, known, reserved, scopes = await pipeline.run()
        self.reports_wait = reserved[0][1] == "t"
        self._locked_at = reserved[0][2] or ""
        self._scopes = {row[0] or "": row[1] or "" for row in scopes}
        self._decide(
            {(row[0] or "", row[1] or ""): _Holder(row[2], row[3], Holding(*map(decimal, row[4:]))) for row in held},
            {booked.entry.key: booked for booked in map(booked_entry, known)},
            [int(row[0] or 0) for row in reserved],
        )

    def _decide(self, held: dict[PositionKey, _Holder], known: dict[FillKey, BookedEntry], ids: Sequence[int]) -> None:
        first: dict[FillKey, int] = {}
        for index, (entry, key, ledger_id) in enumerate(zip(self._entries, self._keys, ids, strict=True)):
            try:
                if key in known:
                    self._duplicates[index] = duplicate_of(known[key], entry, self._identity)
                elif key in first:
                    self._identity.require_same_fill(self._entries[first[key]], entry)
                    self._repeats[index] = first[key]
                elif self._is_under_another_key(index, known, first):
                    continue
                else:
                    require_scope(entry, self._scopes)
                    self.booked[index] = self._book(ledger_id, entry, held)
                    first[key] = index
                    if entry.broker not in self._scopes and (kinds := kinds_of(entry)):
                        self._scopes[entry.broker] = self._new_scopes[entry.broker] = kinds
            except (InvalidRecord, LedgerConflict) as error:
                self.errors[index] = error

    def _is_under_another_key(self, index: int, known: dict[FillKey, BookedEntry], first: dict[FillKey, int]) -> bool:
        """Tell whether the fill is booked with the neighbouring day in its id, or from before its scope's declaration.

        If so, note the result of that booking.
        """
        entry = self._entries[index]
        for other in self._other_keys[index]:
            booked = known.get(other)
            if booked is not None and booked.reverses_id is None and self._identity.is_redelivery(booked.entry, entry):
                self._duplicates[index] = repeated(booked)
                return True
            if other in first and self._identity.is_redelivery(self._entries[first[other]], entry):
                self._repeats[index] = first[other]
                return True
        return False

    @staticmethod
    def _book(ledger_id: int, entry: LedgerEntry, held: dict[PositionKey, _Holder]) -> Booked:
        key = entry.account, entry.symbol
        holder = held.get(key)
        if holder is None:
            holder = _Holder(entry.market, entry.currency, FLAT)
        else:
            require_same_instrument(entry, holder.market, holder.currency)
        after = apply(holder.holding, Trade.of(entry))
        booked = Booked.of(ledger_id, entry, holder.holding, after)
        held[key] = _Holder(holder.market, holder.currency, after)
        return booked

    async def write(self, driver: Driver, *, commit: bool = False) -> dict[int, BookedFill]:
        """Write the entries that `read` computed. With `commit`, COMMIT is sent in the same round trip.

        Returns:
            The result of each fill that was not refused, by its place.
        """
        booked = list(self.booked.values())
        await record_scopes(driver, self._new_scopes)
        pipeline = Pipeline(driver)
        if len(booked) >= _MANY:
            await self._copy(driver, booked)
        elif booked:
            add_entries(pipeline, booked)
        if booked:
            add_positions(pipeline, booked)
        if commit:
            pipeline.add(COMMIT)
        answers = await pipeline.run() if booked or commit else []
        results = dict(self._duplicates)
        if booked:
            written = answers[-2] if commit else answers[-1]
            results |= zip(self.booked, results_of(booked, written), strict=True)
        for index, first in self._repeats.items():
            results[index] = replace(results[first], duplicate=True)
        return results

    async def _copy(self, driver: Driver, booked: Sequence[Booked]) -> None:
        # The server reads the first rows while the last ones are still being made.
        async with driver.cursor() as cursor, cursor.copy(COPY_ENTRIES) as copy:
            for one in booked:
                await copy.write_row([*one.row(), self._locked_at])


def duplicate_of(booked: BookedEntry, entry: LedgerEntry, identity: FillIdentity) -> BookedFill:
    """Return the first result of a redelivered fill.

    Raises:
        LedgerConflict: The booked fill is a different one, or one of another trading day.
    """
    if booked.reverses_id is not None:
        raise LedgerConflict("this execution id is booked as a reversal", booked=str(booked.entry), given=str(entry))
    identity.require_same_fill(booked.entry, entry)
    return repeated(booked)


def repeated(booked: BookedEntry) -> BookedFill:
    """Return the result that the first booking had, marked as a duplicate."""
    return BookedFill(
        ledger_id=booked.id, realized_pnl=booked.realized_pnl, position=position_after(booked), duplicate=True
    )
