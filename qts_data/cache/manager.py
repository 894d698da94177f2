"""The values that an engine needs around an order, from the cache if possible, otherwise from the database."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from qts_data.cache.decorator import CacheAccess
from qts_data.cache.keys import MAIN_ACCOUNT
from qts_data.cache.loaders import Loaders, PositionCommitted
from qts_data.cache.plans import microseconds, position_version
from qts_data.cache.port import Missing, Write, now, version_text
from qts_data.cache.prechecks import effective_limits, precheck_together
from qts_data.cache.states import ManagerStates
from qts_data.contracts.cache import CacheType
from qts_data.contracts.config import ALL_ACCOUNTS
from qts_data.contracts.identity import check_asked
from qts_data.contracts.live import Precheck
from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from qts_data.contracts import BookedFill, LedgerEntry, Position
    from qts_data.contracts.live import OrderBook, OrderState, Quote, Reading, RiskLimits, StrategyParameters

__all__ = ["CacheManager", "Loaders", "PositionCommitted", "position_version"]

_DEFAULT_LEVELS: Final = 10
_MOST_LEVELS: Final = 100_000


class CacheManager(ManagerStates):
    """The hot tier of one process.

    A position that it returns is never older than its TTL, and never older than the commits of this process. No
    failure of the cache reaches the caller: the database is read instead. Prices, books and orders are in the cache
    only; None means that they are not available.

    A process that dies between COMMIT and the write to the cache leaves the previous position in it. Other processes
    may read that for the rest of its TTL, one second by default. Ages are counted by the clock of one Redis server.
    After a failover to a server whose clock is behind, or when the clock is set back, older values live longer by the
    difference. While they seem to come from the future, they count as missing.

    It belongs to the event loop that uses it. In the next loop, after the first has ended, it makes a new connection.
    While the first still runs, in another thread, each call raises `ConfigurationError`.

    Args:
        config: Address of Redis, timeouts and TTLs.
        loaders: The sources of the values.
        cache: A cache to use instead of the configured Redis. Then nothing is kept near, because it does not notify
            us of changes. The manager closes it.
        on_event: Called when the cache is given up, when it is back, when too many keys have changed, and with the
            counters on `record_metrics`.
        on_safety: Called with each safety state before anything else is done, to make the database read-only.
        on_close: Called once at the beginning of `close`, to remove listeners.
    """

    def access(self, name: str) -> CacheAccess:
        """Make the cache for the `@cached` methods of a class. Assign it to the attribute `cache` of its objects.

        The values are in the manager's cache, under its prefix. LOCKDOWN drops them, and the manager's counters count
        them.

        Args:
            name: Separates the values of the class from those of other classes, such as `instruments`.

        Raises:
            CacheClosed: The manager was closed.
            InvalidRecord: The name is empty or not a text.
        """
        self._require_open()
        if not isinstance(name, str) or not name:
            raise InvalidRecord(field="name", reason=f"must be a text, is {name!r}")
        return CacheAccess(self.aside, self._config.prefix, name)

    # Positions

    async def get_position(self, symbol: str, account: str = MAIN_ACCOUNT) -> Position | None:
        """Return the position, or None if the account has never traded the symbol.

        Raises:
            DatabaseError: The cache had no value that can be trusted, and the database failed.
        """
        if self._closed:
            self._require_open()
        check_asked(symbol=symbol, account=account)

        async def load() -> Position | None:
            return await self._loaders.position(symbol, account)

        return await self.aside.fetch(self._keys.position(symbol, account), self._plans.position, load)

    async def update_position_on_fill(self, entry: LedgerEntry) -> BookedFill:
        """Book a fill, in the ledger first and in the cache after its COMMIT.

        Raises:
            WritesRefused: The safety state is FAIL or LOCKDOWN; nothing was booked.
            QtsDataError: The error of the ledger.
        """
        self.require_writable()
        # An error of the event loop is raised here, before the COMMIT.
        self.aside.enter_loop()
        key = self._keys.position(entry.symbol, entry.account)
        noted: list[tuple[Position, float]] = []

        def committed(position: Position, held_at: float) -> None:
            noted.append((position, held_at))
            self._note(position)

        try:
            booked = await self._loaders.record_fill(entry, committed)
        except BaseException:
            if not noted:
                # The fill may have been committed in spite of the error, so values read before are not trusted.
                self.aside.changed(key)
            raise
        # For a duplicate this is the position after the first booking, which may be long out of date.
        if noted and not booked.duplicate:
            await self.aside.store(key, self._plans.position, *max(noted, key=lambda one: one[0].last_ledger_id))
        return booked

    def fill_committed(self, booked: BookedFill, held_at: float) -> None:
        """Take a fill, bust or correction that was committed elsewhere in this process. For `Database.on_booked`.

        Args:
            booked: The outcome of the booking.
            held_at: `time.monotonic()` before the COMMIT. No newer entry had been committed by then.
        """
        if self._closed:
            return
        position = max((one.position for one in (booked, *booked.applied)), key=lambda one: one.last_ledger_id)
        # The position of a duplicate may be long out of date, so it is not written for other processes.
        self.position_committed(position, None if booked.duplicate else held_at)

    def position_committed(self, position: Position, held_at: float | None = None) -> None:
        """Take a committed position, for commits that `Database.on_booked` does not report, such as valuations.

        Args:
            position: The position as it was committed.
            held_at: `time.monotonic()` before the COMMIT, while the row was locked or earlier. With None, other
                processes keep their cached value for the rest of its TTL.
        """
        if self._closed:
            return
        self._note(position)
        key = self._keys.position(position.symbol, position.account)
        if held_at is not None:
            self.aside.in_background(self.aside.store(key, self._plans.position, position, held_at))

    def position_changed(self, account: str, symbol: str) -> None:
        """Note that a position may have changed in an unknown way. For `Database.on_changed`."""
        if self._closed:
            return
        key = self._keys.position(symbol, account)
        self.aside.changed(key)
        # No tombstone: positions are fenced by their versions, and this version is not known.
        self.aside.in_background(self.aside.guarded(self.cache.delete, key))

    # Prices, books, orders: in the cache only

    async def get_price(self, symbol: str) -> Reading[Quote] | None:
        """Return the last price with its age, or None without a price that is young enough.

        A price lives for its TTL, counted from its `quoted_at`. `get_price_age` distinguishes an old price from none.
        """
        self._require_open()
        check_asked(symbol=symbol)
        return (await self._market.price(symbol)).reading

    async def get_price_age(self, symbol: str) -> float | None:
        """Return the age in seconds of the last price in the cache, even if it is too old, or None without one."""
        self._require_open()
        check_asked(symbol=symbol)
        return (await self._market.price(symbol)).age_seconds

    async def push_price(self, quote: Quote) -> bool:
        """Publish a price. False if a newer one is there, or the cache cannot be reached.

        Raises:
            WritesRefused: The safety state is FAIL or LOCKDOWN.
        """
        self.require_writable()
        return await self._market.push_price(quote)

    async def get_orderbook(self, symbol: str, *, levels: int = _DEFAULT_LEVELS) -> Reading[OrderBook] | None:
        """Return the best levels of both sides, sorted, with their age, or None without a book that is young enough.

        A book lives for its TTL, counted from its `quoted_at`.

        Args:
            symbol: The instrument.
            levels: Most levels of each side, 1 or more.
        """
        self._require_open()
        check_asked(symbol=symbol)
        if isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= _MOST_LEVELS:
            raise InvalidRecord(field="levels", reason=f"must be a whole number of 1 to {_MOST_LEVELS}, is {levels!r}")
        return await self._market.book(symbol, levels)

    async def push_orderbook(self, book: OrderBook) -> bool:
        """Publish a whole book. False if a newer one is there, or the cache cannot be reached.

        Raises:
            WritesRefused: The safety state is FAIL or LOCKDOWN.
        """
        self.require_writable()
        return await self._market.push_book(book)

    async def get_order(self, order_id: str) -> OrderState | None:
        """Return the order as the engine last pushed it, or None if that is too long ago."""
        self._require_open()
        check_asked(order_id=order_id)
        found = await self.aside.read(self._keys.key(CacheType.ORDER, order_id), self._plans.order)
        return None if isinstance(found, Missing) else found

    async def push_order(self, order: OrderState) -> bool:
        """Publish an order's state. False if a newer one is there, or the cache cannot be reached.

        Raises:
            WritesRefused: The safety state is FAIL or LOCKDOWN.
        """
        self.require_writable()
        key = self._keys.key(CacheType.ORDER, order.order_id)
        version = version_text(microseconds(order.updated_at))
        self.aside.changed(key, version, order)
        return await self.aside.store(key, self._plans.order, order, now())

    # Limits and parameters

    async def get_risk(self, account: str = MAIN_ACCOUNT) -> RiskLimits | None:
        """Return the limits that hold for an account: its own, completed by those of all accounts.

        None if there are none.
        """
        self._require_open()
        check_asked(account=account)
        own, common = await asyncio.gather(self._stored_risk(account), self._stored_risk(ALL_ACCOUNTS))
        return effective_limits(account, own, common)

    def _stored_risk(self, account: str) -> Coroutine[Any, Any, RiskLimits | None]:
        key = self._keys.key(CacheType.RISK, account)
        return self.aside.fetch(key, self._plans.risk, partial(self._loaders.risk, account))

    async def get_strategy(self, strategy_id: str) -> StrategyParameters | None:
        """Return the parameters of a strategy, or None without any."""
        self._require_open()
        check_asked(strategy_id=strategy_id)

        async def load() -> StrategyParameters | None:
            return await self._loaders.strategy(strategy_id)

        return await self.aside.fetch(self._keys.key(CacheType.STRATEGY, strategy_id), self._plans.strategy, load)

    async def risk_changed(self, account: str = MAIN_ACCOUNT) -> None:
        """Drop cached limits in all processes. Call it after the commit that changed limits of an account or of all.

        Args:
            account: The account whose limits changed. The limits of all accounts have their own key; every process
                reads them again in any case.
        """
        check_asked(account=account)
        await self._invalidate(CacheType.RISK, *dict.fromkeys((account, ALL_ACCOUNTS)))

    async def strategy_changed(self, strategy_id: str) -> None:
        """Drop cached parameters in all processes. Call it after the commit that changed them."""
        check_asked(strategy_id=strategy_id)
        await self._invalidate(CacheType.STRATEGY, strategy_id)

    # All together

    async def precheck(self, symbol: str, account: str, strategy_id: str) -> Precheck:
        """Return price, position, limits and parameters in one round trip (in a cluster: one to each server, at once).

        Position, limits or parameters that the cache does not have are read from the database. A price older than its
        TTL, counted from its `quoted_at`, is None; `quote_age_seconds` is its age.

        Raises:
            DatabaseError: The cache had no value that can be trusted, and the database failed.
        """
        self._require_open()
        check_asked(symbol=symbol, account=account, strategy_id=strategy_id)
        keys = self._keys
        names = (
            keys.key(CacheType.PRICE, symbol),
            keys.position(symbol, account),
            keys.key(CacheType.RISK, account),
            keys.key(CacheType.STRATEGY, strategy_id),
            keys.key(CacheType.RISK, ALL_ACCOUNTS),
        )
        if self._near is not None:
            # Each call looks into the near cache first. The connection still sends the rest together.
            price, held, risk, strategy = await asyncio.gather(
                self._market.price(symbol),
                self.get_position(symbol, account),
                self.get_risk(account),
                self.get_strategy(strategy_id),
            )
            return Precheck(
                quote=price.reading, quote_age_seconds=price.age_seconds, position=held, risk=risk, strategy=strategy
            )
        return await precheck_together(
            self.aside, self._market, self._plans, self._loaders, names=names, wanted=(symbol, account, strategy_id)
        )

    async def warm_up(
        self,
        *,
        positions: Iterable[tuple[str, str]] = (),
        accounts: Iterable[str] = (),
        strategies: Iterable[str] = (),
    ) -> None:
        """Connect, and read the values that will be needed: (symbol, account) pairs, accounts and strategies.

        Raises:
            DatabaseError: The database failed.
        """
        self._require_open()
        await asyncio.gather(
            *(self.get_position(symbol, account) for symbol, account in positions),
            *(self.get_risk(account) for account in accounts),
            *(self.get_strategy(strategy) for strategy in strategies),
        )
        await self.aside.settle()

    def _note(self, position: Position) -> None:
        key = self._keys.position(position.symbol, position.account)
        # The version leaves out the time of the last change, because a valuation is not a fill.
        self.aside.changed(key, version_text(position.last_ledger_id), position)

    async def _invalidate(self, kind: CacheType, *names: str) -> None:
        self._require_open()
        keys = [self._keys.key(kind, name) for name in names]
        for key in keys:
            self.aside.changed(key)
        writes = [Write(key, None, self._config.longest_ttl_ms, tombstone=True) for key in keys]
        await self.aside.guarded(self.cache.set_many, writes)
