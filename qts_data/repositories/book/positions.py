"""Positions: quantities and valuations, and the proof that they equal the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa

from qts_data.contracts import Position
from qts_data.contracts.checks import check_amount, check_decimal, check_price
from qts_data.contracts.fields import columns_of
from qts_data.contracts.identity import check_asked
from qts_data.contracts.instants import plausible
from qts_data.database.errors import translated_errors
from qts_data.database.pipeline import Pipeline, driver_connection
from qts_data.database.streaming import stream_rows
from qts_data.errors import InvalidRecord, NotFound
from qts_data.models import LedgerEntry as Entry
from qts_data.models import Position as Row
from qts_data.repositories.book.booking import GATE, half_even, write_positions
from qts_data.repositories.book.proof import Mismatch, Verification, compare, rebuild, verify

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable
    from decimal import Decimal

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.database.streaming import Stream

__all__ = ["PositionReader", "PositionRepository"]

_position = Row.__table__.c
_entry = Entry.__table__.c
_FIELDS: Final = tuple(columns_of(Position))
_ALL: Final = sa.select(*(_position[field] for field in _FIELDS))
# Values all positions or none. If a value does not fit, the statement returns it instead of failing: an error of the
# server would abort the transaction.
_MARK: Final = sa.text(
    f"""
    WITH held AS (
        SELECT account, symbol, currency, cost_basis, {half_even("(qty * CAST(:price AS numeric))")} AS exposure
          FROM positions
         WHERE symbol = :symbol AND (CAST(:account AS text) IS NULL OR account = :account)
           AND (marked_at IS NULL OR marked_at <= :at)
         ORDER BY account
           FOR NO KEY UPDATE
    ), valued AS (
        SELECT account, symbol, currency, exposure, exposure - cost_basis AS unrealized,
               round(exposure / CAST(:equity AS numeric), 6) AS share
          FROM held
    ), good AS (
        SELECT FROM valued
        HAVING bool_and(abs(exposure) < 1e16 AND abs(unrealized) < 1e16 AND (share IS NULL OR abs(share) < 1e6))
           AND count(DISTINCT currency) = 1
    ), done AS (
        UPDATE positions AS p
           SET mark_price = :price, marked_at = :at, exposure_value = valued.exposure,
               unrealized_pnl = valued.unrealized, exposure_pct = valued.share,
               marked_equity = CAST(:equity AS numeric), updated_at = clock_timestamp()
          FROM valued CROSS JOIN good
         WHERE p.account = valued.account AND p.symbol = valued.symbol
     RETURNING {", ".join(f"p.{field}" for field in _FIELDS)}
    )
    SELECT valued.currency AS held_in, valued.exposure, valued.unrealized, valued.share, done.*
      FROM valued LEFT JOIN done USING (account, symbol)
     ORDER BY valued.account
    """
)


class PositionReader:
    """Queries about positions, in the transaction of one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get_position(self, symbol: str, account: str = "main") -> Position:
        """Return the position of an account in a symbol.

        Raises:
            NotFound: The account has never traded it.
        """
        found = await self.find_position(symbol, account)
        if found is None:
            raise NotFound(f"{account} has no position in {symbol}")
        return found

    async def find_position(self, symbol: str, account: str = "main") -> Position | None:
        """Return the position of an account in a symbol, or None if the account has never traded it.

        Raises:
            InvalidRecord: No position can have this symbol or account.
        """
        check_asked(symbol=symbol, account=account)
        found = await self._rows(_ALL.where(_position.account == account, _position.symbol == symbol))
        return found[0] if found else None

    async def list_by_key(self, keys: Iterable[tuple[str, str]]) -> list[Position]:
        """List positions by account and symbol, in that order. Keys without a position are left out."""
        pairs = list(keys)
        for account, symbol in pairs:
            check_asked(account=account, symbol=symbol)
        accounts, symbols = ([pair[place] for pair in pairs] for place in (0, 1))
        given = (
            sa.func.unnest(sa.cast(accounts, sa.ARRAY(sa.Text)), sa.cast(symbols, sa.ARRAY(sa.Text)))
            .table_valued("account", "symbol")
            .render_derived(name="given")
        )
        wanted = sa.select(given.c.account, given.c.symbol)
        statement = _ALL.where(sa.tuple_(_position.account, _position.symbol).in_(wanted))
        return await self._rows(statement.order_by(_position.account, _position.symbol))

    async def list_positions(
        self,
        *,
        account: str | None = None,
        symbol: str | None = None,
        market: str | None = None,
        strategy_tag: str | None = None,
        open_only: bool = False,
        after: tuple[str, str] | None = None,
        limit: int = 1000,
    ) -> list[Position]:
        """List positions in order of account and symbol.

        Args:
            account: Only positions of this account.
            symbol: Only positions in this instrument.
            market: Only positions of this market.
            strategy_tag: Only positions that this strategy has traded.
            open_only: Leave out positions with quantity 0.
            after: Only positions after this (account, symbol). To page on, give the key of the last one seen.
            limit: Most positions to return.
        """
        statement = _filtered(account, market, strategy_tag, open_only=open_only).limit(limit)
        if symbol is not None:
            check_asked(symbol=symbol)
            statement = statement.where(_position.symbol == symbol)
        if after is not None:
            statement = statement.where(sa.tuple_(_position.account, _position.symbol) > sa.tuple_(*after))
        return await self._rows(statement)

    def stream(
        self, *, account: str | None = None, market: str | None = None, open_only: bool = False
    ) -> Stream[Position]:
        """Stream all positions in order of account and symbol, a few thousand at a time.

        Other statements may run in the same transaction beside the stream, and the caller may leave it at any moment.
        """
        statement = _filtered(account, market, None, open_only=open_only)
        return stream_rows(self._connection, statement, _position_of)

    async def rebuild_positions(
        self, as_of: dt.datetime | None = None, *, by: Literal["timestamp", "recorded_at"] = "timestamp"
    ) -> list[Position]:
        """Compute the positions from the ledger, now or at a past instant, without a valuation.

        Args:
            as_of: The last instant that counts; None for now.
            by: `"timestamp"` counts all fills traded by then, even if they were booked later. `"recorded_at"` counts
                all fills booked by then, as the book showed them. The two entries of a correction are microseconds
                apart. At an instant between them, the result is a state that no transaction saw: the fill is reversed
                and not yet replaced.

        Raises:
            InvalidRecord: `as_of` has no time zone.
        """
        return await rebuild(self._connection, as_of, by)

    async def verify_positions(self) -> Verification:
        """Compute all positions from the ledger, and compare every stored entry and position with them exactly.

        Use it in `database.reader(snapshot=True)`. Otherwise a fill may be booked between its two reads.
        """
        return await verify(self._connection, [position async for position in self.stream()])

    async def _rows(self, statement: sa.Select[Any]) -> list[Position]:
        with translated_errors():
            rows = (await self._connection.execute(statement)).mappings()
            return [Position(**row) for row in rows]


class PositionRepository(PositionReader):
    """Writes to positions. Only the ledger writes quantities.

    Args:
        connection: In a transaction.
        on_changed: Called with account and symbol of each written position, before the commit.
    """

    def __init__(self, connection: AsyncConnection, on_changed: Callable[[str, str], None] | None = None) -> None:
        super().__init__(connection)
        self._on_changed = on_changed or (lambda *_: None)

    async def mark(
        self,
        symbol: str,
        price: Decimal,
        at: dt.datetime,
        *,
        account: str | None = None,
        equity: Decimal | None = None,
    ) -> list[Position]:
        """Value the positions in a symbol: compute exposure and unrealized P&L at a price.

        A position that is valued at a newer price does not change.

        Args:
            symbol: The instrument.
            price: Its price in the positions' currency.
            at: Time of the price.
            account: Only the position of this account; None for the positions of all accounts.
            equity: Equity in the same currency, above 0: that of the account or, without one, of all accounts together.
                It gives `exposure_pct`, which is None without it.

        Returns:
            The valued positions.

        Raises:
            InvalidRecord: A value or a result cannot be stored, or `at` is naive or implausible (see `any_time`). Also
                if accounts hold the symbol in several currencies and `account` is not given. Nothing was valued.
        """
        check_asked(symbol=symbol, account=account)
        check_price("price", price)
        at = plausible("at", at)
        if equity is not None:
            check_amount("equity", equity)
            if equity <= 0:
                raise InvalidRecord(field="equity", reason=f"{equity} is not above zero")
        parameters = {"symbol": symbol, "price": price, "at": at, "account": account, "equity": equity}
        with translated_errors():
            rows = (await self._connection.execute(_MARK, parameters)).mappings().all()
        for row in rows:
            check_amount("exposure_value", row["exposure"])
            check_amount("unrealized_pnl", row["unrealized"])
            if row["share"] is not None:
                check_decimal("exposure_pct", row["share"], integer_digits=6, places=6)
        currencies = sorted({row["held_in"] for row in rows})
        if len(currencies) > 1:
            raise InvalidRecord(
                field="account", reason=f"is not given, and {symbol} is held in {', '.join(currencies)}: say whose"
            )
        valued = [Position(**{field: row[field] for field in _FIELDS}) for row in rows]
        for one in valued:
            self._on_changed(one.account, one.symbol)
        return valued

    async def set_exposure_pct(self, symbol: str, account: str, share: Decimal) -> None:
        """Write the share of the equity, for a source that gives no equity. The next fill sets it to None.

        Args:
            symbol: The instrument of the position.
            account: Its account.
            share: exposure_value as a share of the equity; 0.05 means 5 %.
        """
        check_asked(symbol=symbol, account=account)
        statement = sa.update(Row).where(_position.account == account, _position.symbol == symbol)
        with translated_errors():
            await self._connection.execute(statement.values(exposure_pct=share))

    async def restore_positions(self) -> tuple[Mismatch, ...]:
        """Replace the positions by those computed from the ledger. Return the differences that it found.

        No other transaction books until this one ends. Entries of the ledger are never changed: differences in them
        are returned, too, but stay. An entry that cannot be read does not count.
        """
        with translated_errors():
            driver = await driver_connection(self._connection)
            pipeline = Pipeline(driver)
            pipeline.add(GATE)
            await pipeline.run()
        found, right = await compare(self._connection, [position async for position in self.stream()])
        wrong = {(one.account, one.symbol) for one in found.mismatches if one.ledger_id is None}
        with translated_errors():
            await write_positions(driver, [right[key] for key in sorted(wrong & right.keys())])
            for account, symbol in sorted(wrong - right.keys()):
                await self._connection.execute(
                    sa.delete(Row).where(_position.account == account, _position.symbol == symbol)
                )
        for key in wrong:
            self._on_changed(*key)
        return found.mismatches


def _position_of(row: sa.Row[Any]) -> Position:
    return Position(**dict(zip(_FIELDS, row, strict=True)))


def _traded_by(strategy_tag: str) -> sa.ColumnElement[bool]:
    return sa.exists().where(
        _entry.strategy_tag == strategy_tag, _entry.account == _position.account, _entry.symbol == _position.symbol
    )


def _filtered(account: str | None, market: str | None, strategy_tag: str | None, *, open_only: bool) -> sa.Select[Any]:
    statement = _ALL.order_by(_position.account, _position.symbol)
    for column, value in ((_position.account, account), (_position.market, market)):
        if value is not None:
            check_asked(**{column.key: value})
            statement = statement.where(column == value)
    if strategy_tag is not None:
        check_asked(strategy_tag=strategy_tag)
        statement = statement.where(_traded_by(strategy_tag))
    return statement.where(_position.qty != 0) if open_only else statement
