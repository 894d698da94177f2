"""`qts-data book`: positions, and the proof that they follow from the ledger.

Exit codes: 0 the book is right, 1 it is not, 2 the check failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import zoneinfo
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from qts_data import bootstrap
from qts_data.contracts.instants import end_of_day, utc, utc_of_local
from qts_data.errors import InvalidRecord, QtsDataError
from qts_data.settings import load_settings
from qts_data.terminal.console import console, fail, notes, print_json
from qts_data.terminal.table import Table

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from qts_data.contracts import BookedEntry, Position
    from qts_data.repositories.book.proof import Mismatch, Verification

    Clock = Literal["timestamp", "recorded_at"]

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    help="Positions and their ledger. Exit code 0: right. 1: not right, or nothing found. 2: the check failed.",
    no_args_is_help=True,
)

_T = TypeVar("_T")
By = StrEnum("By", {"timestamp": "timestamp", "recorded_at": "recorded_at"})
_TRADED = By("timestamp")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; numbers are strings with every digit.")]


@app.command()
def show(
    symbol: Annotated[str | None, typer.Argument(help="Only this instrument, and its last entries.")] = None,
    account: Annotated[str | None, typer.Option(help="Only this account.")] = None,
    market: Annotated[str | None, typer.Option(help="Only this market.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Only positions traded by this strategy.")] = None,
    closed: Annotated[bool, typer.Option(help="Include positions of quantity 0.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of rows.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Print positions as they are stored. With --symbol, its last ledger entries, too."""
    with _two_if_unknown():
        positions, entries = _run(_read(symbol, account, market, strategy, closed or symbol is not None, limit))
    if as_json:
        found: dict[str, Any] = {"positions": [_plain(item) for item in positions]}
        if symbol is not None:
            found["entries"] = [_plain(item) for item in entries]
        print_json(found)
    else:
        _print_positions(positions)
        if entries:
            _print_entries(entries)
    if not positions:
        notes.print("no positions")
        raise typer.Exit(1)


@app.command()
def verify(as_json: AsJson = False) -> None:
    """Recompute the book from the whole ledger and compare every entry and position with it, to the last digit."""
    with _two_if_unknown():
        found = _run(_verify())
    if as_json:
        print_json({"right": not found.mismatches, **_plain(found)})
    else:
        console.print(f"{found.entries:,} entries, {found.positions:,} positions")
        _print_mismatches(found.mismatches)
    if found.mismatches:
        raise typer.Exit(1)


@app.command()
def rebuild(
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Last instant that counts, such as 2026-11-20T15:30+09:00; without an offset it is in "
            "QTS_TRADING_TIME_ZONE, and a date alone, however ISO 8601 writes it, means the end of that day."
        ),
    ] = None,
    by: Annotated[
        By, typer.Option(help="timestamp: fills traded by then; recorded_at: fills booked by then.")
    ] = _TRADED,
    account: Annotated[str | None, typer.Option(help="Only this account.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the present positions where they differ.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the book as the ledger makes it, now or at any past instant. Or correct damaged positions.

    With --write, exit code 1 means that ledger entries are wrong as well: those are never changed.
    """
    if write and (as_of is not None or account is not None):
        raise typer.BadParameter("--write corrects all present positions; leave out --as-of and --account")
    with _two_if_unknown():
        instant = None if as_of is None else _instant(as_of)
        if write:
            wrong = _run(_restore())
            rest = [item for item in wrong if item.ledger_id is not None]
            if as_json:
                print_json({"was_wrong": [_plain(item) for item in wrong], "right": not rest})
            else:
                _print_mismatches(wrong)
                restored = {(item.account, item.symbol) for item in wrong if item.ledger_id is None}
                console.print(f"{len(restored):,} positions corrected")
            raise typer.Exit(1 if rest else 0)
        positions = [item for item in _run(_rebuild(instant, by.value)) if account in {None, item.account}]
    if as_json:
        print_json(
            {"as_of": None if instant is None else instant.isoformat(), "positions": list(map(_plain, positions))}
        )
    else:
        _print_positions([item for item in positions if item.qty])


async def _read(
    symbol: str | None, account: str | None, market: str | None, strategy: str | None, closed: bool, limit: int
) -> tuple[list[Position], list[BookedEntry]]:
    async with bootstrap.checked_database(load_settings()) as database, database.reader(snapshot=True) as reader:
        positions = await reader.positions.list_positions(
            account=account, market=market, symbol=symbol, strategy_tag=strategy, open_only=not closed, limit=limit
        )
        if symbol is None:
            return positions, []
        # An account has a symbol in one market only: the entries of its positions belong to that market.
        accounts = [account] if market is None else [item.account for item in positions]
        entries = [
            entry
            for item in accounts
            for entry in await reader.ledger.list_entries(
                account=item, symbol=symbol, strategy_tag=strategy, newest_first=True, limit=limit
            )
        ]
        return positions, sorted(entries, key=lambda booked: booked.id, reverse=True)[:limit]


async def _verify() -> Verification:
    async with bootstrap.checked_database(load_settings()) as database, database.reader(snapshot=True) as reader:
        return await reader.positions.verify_positions()


async def _rebuild(as_of: dt.datetime | None, by: Clock) -> list[Position]:
    async with bootstrap.checked_database(load_settings()) as database, database.reader(snapshot=True) as reader:
        return await reader.positions.rebuild_positions(as_of, by=by)


async def _restore() -> tuple[Mismatch, ...]:
    async with bootstrap.checked_database(load_settings()) as database, database.transaction() as uow:
        return await uow.positions.restore_positions()


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(work)


@contextlib.contextmanager
def _two_if_unknown() -> Iterator[None]:
    try:
        yield
    except QtsDataError as error:
        fail(error, code=2)


def _instant(text: str) -> dt.datetime:
    zone = zoneinfo.ZoneInfo(load_settings().trading_time_zone)
    try:
        return _end_of_day(text, zone) or _moment(text, zone)
    except ValueError as error:
        raise InvalidRecord(
            field="--as-of", reason=f"{text!r} is neither a date nor a time such as 2026-11-20T15:30"
        ) from error
    except OverflowError as error:
        raise InvalidRecord(field="--as-of", reason=f"{text!r} is outside the years 1 to 9999 in UTC") from error


def _end_of_day(text: str, zone: zoneinfo.ZoneInfo) -> dt.datetime | None:
    """Return the last microsecond of a day. None if the text contains more than a date."""
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        return None
    end = end_of_day("--as-of", day, zone)
    return (end - dt.timedelta(microseconds=1)).astimezone(zone)


def _moment(text: str, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    given = dt.datetime.fromisoformat(text)
    return utc("--as-of", given) if given.tzinfo is not None else utc_of_local("--as-of", given, zone).astimezone(zone)


def _plain(record: Position | BookedEntry | Mismatch | Verification) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(record), default=_json_value))
    return found


def _json_value(value: object) -> str:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    # str() would write zero with eight places as 0E-8.
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _number(value: Decimal | None) -> str:
    return "-" if value is None else f"{value.normalize():,f}"


def _print_positions(positions: Sequence[Position]) -> None:
    if not positions:
        return
    table = Table(
        ("account", "symbol", "market"), ("qty", "avg price", "cost", "realized", "unrealized", "currency", "entry")
    )
    for item in positions:
        figures = (item.qty, item.avg_price, item.cost_basis, item.realized_pnl, item.unrealized_pnl)
        table.add(
            (item.account, item.symbol, item.market, *map(_number, figures), item.currency, str(item.last_ledger_id))
        )
    table.print()


def _print_entries(entries: Sequence[BookedEntry]) -> None:
    console.print()
    zone = zoneinfo.ZoneInfo(load_settings().trading_time_zone)
    table = Table(("time", "broker", "execution id", "side"), ("qty", "price", "fee", "realized", "qty after", "entry"))
    for booked in reversed(entries):
        entry = booked.entry
        takes_back = "" if booked.reverses_id is None else f" (reverses {booked.reverses_id})"
        figures = (entry.qty, entry.price, entry.fee, booked.realized_pnl, booked.position_qty)
        time = f"{entry.timestamp.astimezone(zone):%Y-%m-%d %H:%M:%S}"
        said = (time, entry.broker, entry.stored_execution_id, entry.side + takes_back)
        table.add((*said, *map(_number, figures), str(booked.id)))
    table.print()


def _print_mismatches(mismatches: Sequence[Mismatch]) -> None:
    if not mismatches:
        return
    table = Table(("account", "symbol", "where", "field"), ("stored", "computed"))
    for item in mismatches:
        where = "position" if item.ledger_id is None else f"entry {item.ledger_id}"
        table.add((item.account, item.symbol, where, item.field, item.stored, item.computed))
    table.print()
