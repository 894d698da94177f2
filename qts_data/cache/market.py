"""Prices and order books: in the cache only, and never older than their TTL, counted from the feed's own time.

The age of a reading is the greater of two: the time since it was pushed, by the cache's clock, and the time since its
`quoted_at`, by this machine's clock. A reading older than its TTL is not served. A reading whose `quoted_at` is
further ahead than `CacheConfig.most_ahead_ms` is neither published nor served.
"""

from __future__ import annotations

import datetime as dt
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from qts_data.cache import codec
from qts_data.cache.plans import microseconds
from qts_data.cache.port import BookSides, BookWrite, Entry, Missing, Write, now, version_text
from qts_data.contracts.cache import CacheType
from qts_data.contracts.live import BookLevel, OrderBook, Quote, Reading
from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qts_data.cache.aside import CacheAside
    from qts_data.cache.feed_clock import FeedClock
    from qts_data.cache.keys import Keys

__all__ = ["LiveMarket", "Price"]

_log = logging.getLogger(__name__)
_BOOK_UNREADABLE: Final = (KeyError, ValueError, ArithmeticError, RecursionError, InvalidRecord)


class Price(NamedTuple):
    """The result of looking up a price.

    Attributes:
        reading: The price, if it is young enough.
        age_seconds: The age of the price that the cache holds, even of one that is too old; None without one.
    """

    reading: Reading[Quote] | None
    age_seconds: float | None


_NO_PRICE: Final = Price(None, None)


class LiveMarket:
    """Reads and publishes prices and books.

    Args:
        aside: Cache, breaker and counters.
        keys: Makes the keys.
        price_ttl_ms: TTL of a price, in milliseconds.
        book_ttl_ms: TTL of a book, in milliseconds.
        clock: Judges which records are too far ahead.
    """

    def __init__(self, aside: CacheAside, keys: Keys, price_ttl_ms: int, book_ttl_ms: int, clock: FeedClock) -> None:
        self._clock = clock
        self._aside = aside
        self._keys = keys
        self._price_ttl_ms = price_ttl_ms
        self._book_ttl_ms = book_ttl_ms

    async def price(self, symbol: str) -> Price:
        """Return the last price."""
        key = self._keys.key(CacheType.PRICE, symbol)
        entry = await self._aside.guarded(self._aside.cache.lookup, key, reads=1)
        return _NO_PRICE if entry is None else self.price_of(symbol, entry)

    def price_of(self, symbol: str, entry: Entry | Missing) -> Price:
        """Return the price that an entry holds."""
        counters = self._aside.counters
        if not isinstance(entry, Entry) or entry.value is None:
            counters.misses += 1
            return _NO_PRICE
        try:
            quote = codec.QUOTE.decode(entry.value)
        except codec.ForeignRecord as error:
            _log.debug("the price of %s is of another layout: %s", symbol, error)
            quote = None
        if quote is None or quote.symbol != symbol:
            counters.misses += 1
            counters.foreign += 1
            return _NO_PRICE
        if self._clock.is_too_far_ahead(quote.quoted_at):
            counters.misses += 1
            counters.ahead += 1
            return _NO_PRICE
        age = _age(entry, quote.quoted_at)
        if age * 1000 > self._price_ttl_ms:
            counters.misses += 1
            counters.too_old += 1
            return Price(None, age)
        counters.hits += 1
        return Price(Reading(quote, age), age)

    async def push_price(self, quote: Quote) -> bool:
        """Publish a price. False if a newer one is there, it is too far ahead, or the cache cannot be reached."""
        if not self._may_push(quote):
            return False
        key = self._keys.key(CacheType.PRICE, quote.symbol)
        version = version_text(microseconds(quote.quoted_at))
        write = Write(key, codec.QUOTE.encode(quote), self._price_ttl_ms, version)
        answer = await self._aside.guarded(self._aside.cache.set_many, [write])
        return self._taken(quote, None if answer is None else answer[0])

    async def book(self, symbol: str, levels: int) -> Reading[OrderBook] | None:
        """Return the best levels of both sides, with their age, or None without a book that is young enough."""

        async def read() -> BookSides | Missing:
            return await self._aside.cache.get_book(*self._keys.book(symbol), levels=levels)

        counters = self._aside.counters
        found = await self._aside.guarded(read, reads=1)
        if found is None:
            return None
        reading = None
        if isinstance(found, BookSides):
            reading = self._book_of(symbol, found)
            if reading is None:
                counters.foreign += 1
            elif self._clock.is_too_far_ahead(reading.value.quoted_at):
                counters.ahead += 1
                reading = None
            elif reading.age_seconds * 1000 > self._book_ttl_ms:
                counters.too_old += 1
                _log.debug("the book of %s is %.3f s old", symbol, reading.age_seconds)
                reading = None
        if reading is None:
            counters.misses += 1
        else:
            counters.hits += 1
        return reading

    async def push_book(self, book: OrderBook) -> bool:
        """Publish a whole book. False if a newer one is there, it is too far ahead, or the cache cannot be reached."""
        if not self._may_push(book):
            return False
        write = BookWrite(
            *self._keys.book(book.symbol),
            bids=[(f"{level.price:f}", f"{level.size:f}") for level in book.bids],
            asks=[(f"{level.price:f}", f"{level.size:f}") for level in book.asks],
            ttl_ms=self._book_ttl_ms,
            version=version_text(microseconds(book.quoted_at)),
            fields={"v": "1", "symbol": book.symbol, "quoted_at": codec.instant_text(book.quoted_at)},
        )
        return self._taken(book, await self._aside.guarded(self._aside.cache.set_book, write))

    def _book_of(self, symbol: str, found: BookSides) -> Reading[OrderBook] | None:
        fields = found.meta.value or {}
        try:
            if fields["symbol"] != symbol:
                return None
            quoted_at = codec.read_instant(fields["quoted_at"])
            book = OrderBook(symbol=symbol, bids=_levels(found.bids), asks=_levels(found.asks), quoted_at=quoted_at)
        except _BOOK_UNREADABLE as error:
            _log.debug("the book of %s cannot be read: %r", symbol, error)
            return None
        return Reading(book, _age(found.meta, quoted_at))

    def _may_push(self, record: Quote | OrderBook) -> bool:
        if self._clock.is_too_far_ahead(record.quoted_at):
            self._aside.counters.ahead += 1
            _log.warning(
                "%s of %s is stamped ahead of this machine's clock, at %s, and is not published",
                type(record).__name__,
                record.symbol,
                record.quoted_at.isoformat(),
            )
            return False
        if self._clock.is_repeated(record):
            self._aside.counters.refused += 1
            return False
        return True

    def _taken(self, record: Quote | OrderBook, answer: bool | None) -> bool:
        if answer is False:
            self._aside.counters.refused += 1
        elif answer:
            self._clock.pushed(record)
        return bool(answer)


def _levels(texts: Iterable[tuple[str, str]]) -> tuple[BookLevel, ...]:
    return tuple(BookLevel(Decimal(price), Decimal(size)) for price, size in texts)


def _age(entry: Entry, quoted_at: dt.datetime) -> float:
    return max(now() - entry.read_at, (dt.datetime.now(dt.UTC) - quoted_at).total_seconds())
