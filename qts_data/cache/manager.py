"""What an engine asks before, during and after an order; the cache where it can, the database where it must."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from qts_data.cache import codec
from qts_data.cache.aside import CacheAside, Plan
from qts_data.cache.breaker import Breaker, BreakerState
from qts_data.cache.keys import MAIN_ACCOUNT, Keys
from qts_data.cache.near import NearCache
from qts_data.cache.port import MISSING, BookSides, BookWrite, Entry, Missing, Write, now, version_text
from qts_data.cache.redis import RedisCache
from qts_data.contracts.cache import CacheEvent, CacheType, OperatingState, SafetyState
from qts_data.contracts.config import ALL_ACCOUNTS
from qts_data.contracts.live import BookLevel, OrderBook, Precheck, Reading, RiskLimits
from qts_data.errors import CacheError, InvalidRecord, WritesRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

    from qts_data.cache.port import Cache
    from qts_data.contracts import BookedFill, HealthStatus, LedgerEntry, Position
    from qts_data.contracts.cache import CacheConfig, CacheStats
    from qts_data.contracts.live import OrderState, Quote, StrategyParameters

__all__ = ["CacheManager", "Loaders", "PositionCommitted"]

_log = logging.getLogger(__name__)
_DEFAULT_LEVELS: Final = 10
_READ_ONLY: Final = frozenset({SafetyState.FAIL, SafetyState.LOCKDOWN})
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


class PositionCommitted(Protocol):
    """To be called once COMMIT has returned, in the same turn of the event loop."""

    def __call__(self, position: Position, held_at: float) -> None:
        """A commit made this position.

        Args:
            position: The position as it was committed.
            held_at: `time.monotonic()` at a moment between the writing of the row and its COMMIT: its lock was held,
                so nothing newer existed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaders:
    """Where values come from.

    Attributes:
        position: Reads the position of (symbol, account) in a transaction of its own; None if there is none.
        risk: Reads the limits of an account, its own ones only; those of all accounts as the account `*`.
        strategy: Reads the parameters of a strategy.
        record_fill: Books a fill in a transaction of its own, and calls back after its COMMIT.
    """

    position: Callable[[str, str], Awaitable[Position | None]]
    risk: Callable[[str], Awaitable[RiskLimits | None]]
    strategy: Callable[[str], Awaitable[StrategyParameters | None]]
    record_fill: Callable[[LedgerEntry, PositionCommitted], Awaitable[BookedFill]]


def position_version(position: Position) -> str:
    """What a position is fenced by: its last ledger entry and, between valuations, when the row changed."""
    return version_text(position.last_ledger_id, _micros(position.updated_at))


def _micros(instant: dt.datetime) -> int:
    return max((instant - _EPOCH) // _MICROSECOND, 0)


class CacheManager:
    """The hot tier of one process.

    A position that it returns is never older than its TTL, never older than what this process has committed, and no
    failure of the cache leaves it: where the cache is of no use, the database is asked. Prices, books and orders live
    in the cache only; None means that they are not to be had.

    A process that dies between COMMIT and the write to the cache leaves the position of before in it; other processes
    may read that for the rest of its TTL, one second by default. Ages are told by the clock of one Redis server: after
    a failover to one whose clock is behind, or when it is set back, what was written before lives longer by the
    difference.

    Args:
        config: Where Redis is, how long it may take, how long values live.
        loaders: Where values come from.
        cache: Another cache than the configured Redis; then nothing is kept near, for it does not tell of changes.
        on_event: Told when the cache is given up, when it is back, and the counters on `record_metrics`.
        on_safety: Told of each safety state, before anything else is done about it: to make the database read-only.
    """

    def __init__(
        self,
        config: CacheConfig,
        loaders: Loaders,
        *,
        cache: Cache | None = None,
        on_event: Callable[[CacheEvent], None] | None = None,
        on_safety: Callable[[SafetyState], None] | None = None,
    ) -> None:
        self._config = config
        self._loaders = loaders
        self._on_event = on_event
        self._on_safety = on_safety
        self._near = NearCache(config.near_entries) if config.near_entries and cache is None else None
        self._keys = Keys(config.prefix)
        self.safety = SafetyState.NORMAL
        self.operating = OperatingState.BALANCED
        self.breaker = Breaker(
            config.breaker_threshold, config.breaker_recovery_seconds, on_change=self._breaker_changed
        )
        self.aside = CacheAside(
            cache or RedisCache(config, near=self._near),
            self.breaker,
            keep_seconds=config.longest_ttl_ms / 1000,
            near=self._near,
        )
        self._make_plans()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def cache(self) -> Cache:
        """The cache itself; its errors are yours."""
        return self.aside.cache

    async def close(self) -> None:
        """Wait for what is being written, and let the connections go."""
        await self.aside.settle()
        await self.cache.close()

    # Positions

    async def get_position(self, symbol: str, account: str = MAIN_ACCOUNT) -> Position | None:
        """The position, or None if the account has never traded the symbol.

        Raises:
            DatabaseError: The cache had nothing to be trusted, and the database failed.
        """

        async def load() -> Position | None:
            return await self._loaders.position(symbol, account)

        return await self.aside.fetch(self._keys.position(symbol, account), self._position, load)

    async def update_position_on_fill(self, entry: LedgerEntry) -> BookedFill:
        """Book a fill: the ledger first, the cache after its COMMIT.

        Raises:
            WritesRefused: The safety state is FAIL or LOCKDOWN; nothing was booked.
            QtsDataError: What the ledger raises.
        """
        self.require_writable()
        key = self._keys.position(entry.symbol, entry.account)
        noted: list[tuple[Position, float]] = []

        def committed(position: Position, held_at: float) -> None:
            noted.append((position, held_at))
            self._note(position)

        try:
            booked = await self._loaders.record_fill(entry, committed)
        except BaseException:
            if not noted:
                # It may have been committed all the same: nobody may trust what was read before.
                self.aside.changed(key)
            raise
        # Of a duplicate this is the position after the first booking, which may be long gone.
        if noted and not booked.duplicate:
            await self.aside.store(key, self._position, *max(noted, key=lambda one: one[0].last_ledger_id))
        return booked

    def fill_committed(self, booked: BookedFill, held_at: float) -> None:
        """A fill, bust or correction was committed elsewhere in this process; made for `Database.on_booked`.

        Args:
            booked: What became of it.
            held_at: `time.monotonic()` before the COMMIT; nothing newer had been committed by then.
        """
        position = max((one.position for one in (booked, *booked.applied)), key=lambda one: one.last_ledger_id)
        # Of a duplicate this may be long gone: others are told nothing.
        self.position_committed(position, None if booked.duplicate else held_at)

    def position_committed(self, position: Position, held_at: float | None = None) -> None:
        """A position was committed; for commits that `Database.on_booked` does not tell of, such as valuations.

        Args:
            position: The position as it was committed.
            held_at: `time.monotonic()` before the COMMIT, while the row was locked or earlier; None leaves other
                processes with what they have for the rest of its TTL.
        """
        self._note(position)
        key = self._keys.position(position.symbol, position.account)
        if held_at is not None:
            self.aside.in_background(self.aside.store(key, self._position, position, held_at))

    def position_changed(self, account: str, symbol: str) -> None:
        """A position may be another one now, and nobody says which; made for `Database.on_changed`."""
        key = self._keys.position(symbol, account)
        self.aside.changed(key)
        # No tombstone: positions are fenced by their versions, and this one's is not known.
        self.aside.in_background(self.aside.guarded(self.cache.delete, key))

    # Prices, books, orders: in the cache only

    async def get_price(self, symbol: str) -> Reading[Quote] | None:
        """The last price with its age; None means that there is none young enough, and the database is not asked."""
        entry = await self.aside.guarded(self.cache.lookup, self._keys.key(CacheType.PRICE, symbol))
        return None if entry is None else self._quote_of(symbol, entry)

    async def push_price(self, quote: Quote) -> bool:
        """Publish a price; False if a newer one is there, or the cache cannot be reached.

        Raises:
            WritesRefused: The safety state is FAIL or LOCKDOWN.
        """
        return await self._push(CacheType.PRICE, quote.symbol, codec.QUOTE.encode(quote), quote.quoted_at)

    async def get_orderbook(self, symbol: str, *, levels: int = _DEFAULT_LEVELS) -> Reading[OrderBook] | None:
        """The best levels of both sides, sorted, with their age; None means that there is no book young enough.

        Args:
            symbol: The instrument.
            levels: Most levels of each side, 1 or more.
        """
        if levels < 1:
            raise InvalidRecord(field="levels", reason=f"must be 1 or more, is {levels}")

        async def read() -> BookSides | Missing:
            return await self.cache.get_book(*self._keys.book(symbol), levels=levels)

        found = await self.aside.guarded(read)
        if found is None:
            return None
        if not isinstance(found, BookSides) or self._too_old(CacheType.ORDERBOOK, found.meta):
            self.aside.counters.misses += 1
            return None
        try:
            quoted_at = codec.read_instant((found.meta.value or {})["quoted_at"])
            book = OrderBook(symbol=symbol, bids=_levels(found.bids), asks=_levels(found.asks), quoted_at=quoted_at)
        except (KeyError, ValueError, ArithmeticError, InvalidRecord):
            self.aside.counters.misses += 1
            return None
        self.aside.counters.hits += 1
        return Reading(book, _age(found.meta, quoted_at))

    async def push_orderbook(self, book: OrderBook) -> bool:
        """Publish a whole book; False if a newer one is there, or the cache cannot be reached.

        Raises:
            WritesRefused: The safety state is FAIL or LOCKDOWN.
        """
        self.require_writable()
        write = BookWrite(
            *self._keys.book(book.symbol),
            bids=[(f"{level.price:f}", f"{level.size:f}") for level in book.bids],
            asks=[(f"{level.price:f}", f"{level.size:f}") for level in book.asks],
            ttl_ms=self._ttl(CacheType.ORDERBOOK),
            version=version_text(_micros(book.quoted_at)),
            fields={"v": "1", "quoted_at": codec.instant_text(book.quoted_at)},
        )
        return self._taken(await self.aside.guarded(self.cache.set_book, write))

    async def get_order(self, order_id: str) -> OrderState | None:
        """The order as the engine last pushed it; None if that is too long ago."""
        found = await self.aside.read(self._keys.key(CacheType.ORDER, order_id), self._order)
        return None if isinstance(found, Missing) else found

    async def push_order(self, order: OrderState) -> bool:
        """Publish an order's state; False if a newer one is there, or the cache cannot be reached.

        Raises:
            WritesRefused: The safety state is FAIL or LOCKDOWN.
        """
        self.require_writable()
        key = self._keys.key(CacheType.ORDER, order.order_id)
        version = version_text(_micros(order.updated_at))
        self.aside.changed(key, version, order)
        return await self.aside.store(key, self._order, order, now())

    # Limits and parameters

    async def get_risk(self, account: str = MAIN_ACCOUNT) -> RiskLimits | None:
        """Read the limits that hold for an account: its own, and those of all accounts for the others.

        None if there are none.
        """
        own, common = await asyncio.gather(self._stored_risk(account), self._stored_risk(ALL_ACCOUNTS))
        return _effective(account, own, common)

    def _stored_risk(self, account: str) -> Coroutine[Any, Any, RiskLimits | None]:
        key = self._keys.key(CacheType.RISK, account)
        return self.aside.fetch(key, self._risk, partial(self._loaders.risk, account))

    async def get_strategy(self, strategy_id: str) -> StrategyParameters | None:
        """The parameters of a strategy, or None without any."""

        async def load() -> StrategyParameters | None:
            return await self._loaders.strategy(strategy_id)

        return await self.aside.fetch(self._keys.key(CacheType.STRATEGY, strategy_id), self._strategy, load)

    async def risk_changed(self, account: str = MAIN_ACCOUNT) -> None:
        """Call it after the commit that changed limits of an account or of all: no process serves those of before.

        Args:
            account: The account whose limits changed. Those of all accounts are read again in any case, by every
                account in every process: they have a key of their own.
        """
        await self._invalidate(CacheType.RISK, *dict.fromkeys((account, ALL_ACCOUNTS)))

    async def strategy_changed(self, strategy_id: str) -> None:
        """Call it after the commit that changed parameters: nobody is served those of before."""
        await self._invalidate(CacheType.STRATEGY, strategy_id)

    # All together

    async def precheck(self, symbol: str, account: str, strategy_id: str) -> Precheck:
        """Price, position, limits and parameters in one round trip (in a cluster: one to each server, at once).

        What the cache does not have of the last three is read from the database.

        Raises:
            DatabaseError: The cache had nothing to be trusted, and the database failed.
        """
        keys = self._keys
        names = (
            keys.key(CacheType.PRICE, symbol),
            keys.position(symbol, account),
            keys.key(CacheType.RISK, account),
            keys.key(CacheType.STRATEGY, strategy_id),
            keys.key(CacheType.RISK, ALL_ACCOUNTS),
        )
        if self._near is not None:
            # Each looks near first; what is left is gathered by the connection all the same.
            price, held, risk, strategy = await asyncio.gather(
                self.get_price(symbol),
                self.get_position(symbol, account),
                self.get_risk(account),
                self.get_strategy(strategy_id),
            )
            return Precheck(quote=price, position=held, risk=risk, strategy=strategy)
        entries = await self.aside.guarded(self.cache.lookup_many, names)
        found: list[Any] = [None, MISSING, MISSING, MISSING, MISSING]
        if entries is not None:
            accept = self.aside.accept
            found = [
                self._quote_of(symbol, entries[0]),
                accept(names[1], self._position, entries[1]),
                accept(names[2], self._risk, entries[2]),
                accept(names[3], self._strategy, entries[3]),
                accept(names[4], self._risk, entries[4]),
            ]
        if MISSING in found:
            loads: list[Callable[[], Awaitable[Any]]] = [
                lambda: self._loaders.position(symbol, account),
                lambda: self._loaders.risk(account),
                lambda: self._loaders.strategy(strategy_id),
                lambda: self._loaders.risk(ALL_ACCOUNTS),
            ]
            plans: list[Plan[Any]] = [self._position, self._risk, self._strategy, self._risk]
            missing = [place for place in (1, 2, 3, 4) if found[place] is MISSING]
            loaded = await asyncio.gather(
                *(self.aside.load(names[place], plans[place - 1], loads[place - 1]) for place in missing)
            )
            for place, value in zip(missing, loaded, strict=True):
                found[place] = value
        risk = _effective(account, found[2], found[4])
        return Precheck(quote=found[0], position=found[1], risk=risk, strategy=found[3])

    async def warm_up(
        self,
        *,
        positions: Iterable[tuple[str, str]] = (),
        accounts: Iterable[str] = (),
        strategies: Iterable[str] = (),
    ) -> None:
        """Connect, and read what will be needed: (symbol, account) pairs, accounts and strategies.

        Raises:
            DatabaseError: The database failed.
        """
        await asyncio.gather(
            *(self.get_position(symbol, account) for symbol, account in positions),
            *(self.get_risk(account) for account in accounts),
            *(self.get_strategy(strategy) for strategy in strategies),
        )
        await self.aside.settle()

    # How it goes

    def get_stats(self) -> CacheStats:
        """Counters since the start."""
        return self.aside.counters.snapshot()

    def is_circuit_open(self) -> bool:
        """Whether the cache is left alone."""
        return self.breaker.state is not BreakerState.CLOSED

    async def health_check(self) -> HealthStatus:
        """Whether the cache answers; never raises."""
        return await self.cache.health_check()

    def record_metrics(self) -> None:
        """Send the counters as a METRIC_RECORD event; call it as often as they are wanted."""
        stats = self.get_stats()
        self._emit("METRIC_RECORD", 3, **asdict(stats), hit_rate=stats.hit_rate)

    # The engine's states

    def require_writable(self) -> None:
        """Refuse a write that the safety state does not allow.

        Raises:
            WritesRefused: It is FAIL or LOCKDOWN.
        """
        if self.safety in _READ_ONLY:
            raise WritesRefused(f"the safety state is {self.safety}: cache and database are read-only")

    async def set_safety(self, state: SafetyState) -> None:
        """Enter a safety state.

        NORMAL and WARNING change nothing. FAIL makes cache and database read-only. LOCKDOWN also drops what is cached
        under this prefix, and leaves the cache alone until another state is entered.
        """
        self.safety = state
        self.aside.read_only = state in _READ_ONLY
        self.aside.enabled = state is not SafetyState.LOCKDOWN
        if self._on_safety is not None:
            self._on_safety(state)
        if state is not SafetyState.LOCKDOWN:
            return
        if self._near is not None:
            self._near.clear()
        await self.aside.settle()
        try:
            dropped = await self.cache.drop_all(self._keys.starts())
            _log.warning("LOCKDOWN: dropped %d keys of the cache", dropped)
        except CacheError as error:
            _log.error("LOCKDOWN: the cache could not be emptied, its values expire by themselves: %s", error)

    def set_operating(self, state: OperatingState) -> None:
        """Enter an operating state: AGGRESSIVE shortens the TTL of prices, DEFENSIVE caps that of positions."""
        self.operating = state
        if self._near is not None:
            self._near.clear()
        self._make_plans()

    def _ttl(self, kind: CacheType) -> int:
        return self._config.ttl(kind, self.operating)

    def _make_plans(self) -> None:
        near = self._near is not None
        self._position: Plan[Position] = Plan(
            codec=codec.POSITION,
            ttl_ms=self._ttl(CacheType.POSITION),
            version=position_version,
            none_version=version_text(0),
            near=near,
        )
        self._risk: Plan[RiskLimits] = Plan(codec=codec.RISK, ttl_ms=self._ttl(CacheType.RISK), near=near, jitter=True)
        self._strategy: Plan[StrategyParameters] = Plan(
            codec=codec.STRATEGY, ttl_ms=self._ttl(CacheType.STRATEGY), near=near, jitter=True
        )
        self._order: Plan[OrderState] = Plan(
            codec=codec.ORDER,
            ttl_ms=self._ttl(CacheType.ORDER),
            version=lambda order: version_text(_micros(order.updated_at)),
        )

    def _note(self, position: Position) -> None:
        key = self._keys.position(position.symbol, position.account)
        # Without the time of the last change: a valuation is not a fill.
        self.aside.changed(key, version_text(position.last_ledger_id), position)

    async def _invalidate(self, kind: CacheType, *names: str) -> None:
        keys = [self._keys.key(kind, name) for name in names]
        for key in keys:
            self.aside.changed(key)
        writes = [Write(key, None, self._config.longest_ttl_ms, tombstone=True) for key in keys]
        await self.aside.guarded(self.cache.set_many, writes)

    async def _push(self, kind: CacheType, name: str, fields: Any, at: dt.datetime) -> bool:
        self.require_writable()
        write = Write(self._keys.key(kind, name), fields, self._ttl(kind), version_text(_micros(at)))
        answer: Sequence[bool] | None = await self.aside.guarded(self.cache.set_many, [write])
        return self._taken(None if answer is None else answer[0])

    def _taken(self, answer: bool | None) -> bool:
        if answer is False:
            self.aside.counters.refused += 1
        return bool(answer)

    def _too_old(self, kind: CacheType, entry: Entry) -> bool:
        return now() - entry.read_at > self._ttl(kind) / 1000

    def _quote_of(self, symbol: str, entry: Entry | Missing) -> Reading[Quote] | None:
        counters = self.aside.counters
        if isinstance(entry, Entry) and entry.value is not None and not self._too_old(CacheType.PRICE, entry):
            try:
                quote = codec.QUOTE.decode(entry.value)
            except codec.ForeignRecord as error:
                _log.debug("the price of %s is of another layout: %s", symbol, error)
            else:
                counters.hits += 1
                return Reading(quote, _age(entry, quote.quoted_at))
        counters.misses += 1
        return None

    def _breaker_changed(self, state: BreakerState) -> None:
        if state is BreakerState.OPEN:
            self._emit(self._config.degraded_event, 0, failures=self.breaker.failures)
        else:
            self._emit("CACHE_RECOVERED", 1)

    def _emit(self, name: str, priority: int, **detail: float | str) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(CacheEvent(name=name, priority=priority, detail=detail))
        except Exception:  # noqa: BLE001 - whoever listens must not make the cache fail
            _log.exception("a listener for the cache's events failed")


def _levels(texts: Iterable[tuple[str, str]]) -> tuple[BookLevel, ...]:
    return tuple(BookLevel(Decimal(price), Decimal(size)) for price, size in texts)


def _age(entry: Entry, quoted_at: dt.datetime) -> float:
    return max(now() - entry.read_at, (dt.datetime.now(dt.UTC) - quoted_at).total_seconds())


def _effective(account: str, own: RiskLimits | None, common: RiskLimits | None) -> RiskLimits | None:
    """Merge the limits of an account into those of all accounts; its own come first."""
    if own is None and common is None:
        return None
    limits = {**(common.limits if common is not None else {}), **(own.limits if own is not None else {})}
    return RiskLimits(account=account, limits=limits)
