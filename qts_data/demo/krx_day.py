"""A made-up trading day of the Korea Exchange (KRX), for demonstrations and tests without a real feed.

No price in it was ever traded. Its rules are real:

* Session: opening auction at 09:00, continuous trading until 15:20, closing auction at 15:30, Korean time.
  An auction here ends on the minute; the real one ends at a random time within the 30 seconds after it.
* Tick sizes of shares on KOSPI, KOSDAQ and KONEX, in force since 25 January 2023 (`tick_size`).
* Daily price limits of 30 % around the base price, in force since 15 June 2015 (`price_limits`).

The same arguments give the same ticks, on every machine and in every version of Python. All arithmetic is in
integers, and the random numbers come from SHAKE-256 (FIPS 202), whose output is fixed by a standard.

Sources:
    https://v.daum.net/v/20221101161150796 and https://kr.investing.com/news/economy/article-871878 (tick sizes),
    http://global.krx.co.kr/contents/GLB/06/0602/0602020202/GLB0602020202T2.jsp (base price and price limits),
    http://global.krx.co.kr/contents/GLB/06/0602/0602020202/GLB0602020202T6.jsp (auctions).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
from bisect import bisect_right
from decimal import Decimal
from heapq import merge
from itertools import accumulate, count
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from qts_data.contracts import TickData
from qts_data.contracts.checks import check_source, check_symbol
from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["DEFAULT_SYMBOLS", "generate_day", "price_limits", "tick_size"]

DEFAULT_SYMBOLS = ("005930", "000660", "035720")
"""Samsung Electronics, SK hynix, Kakao: three shares in three bands of the tick-size table."""

_BASE_PRICES = {"005930": 71_500, "000660": 201_500, "035720": 41_250}
# Any other symbol starts at one of these, so that a long list of symbols visits every band.
_OTHER_BASE_PRICES = (1_430, 3_890, 9_540, 17_860, 36_400, 118_500, 342_000, 705_000)

# Upper bound of the band in KRW, exclusive, and the tick size in it. Every size divides the next one.
_TICK_SIZES = ((2_000, 1), (5_000, 5), (20_000, 10), (50_000, 50), (200_000, 100), (500_000, 500))
_LARGEST_TICK_SIZE = 1_000

# The session in milliseconds since 09:00 Korean time.
_MINUTE = 60_000
_OPENING = 0
_CONTINUOUS_MINUTES = 380
_CLOSING = 390 * _MINUTE


def _intensity(minute: int) -> int:
    """Return the relative number of orders in a minute: many at both ends of the day, most in the morning."""
    from_middle = 2 * minute - (_CONTINUOUS_MINUTES - 1)
    height = 140 if from_middle < 0 else 90
    return 20 + height * from_middle**2 // _CONTINUOUS_MINUTES**2


_ORDERS_UNTIL = tuple(accumulate(_intensity(minute) for minute in range(_CONTINUOUS_MINUTES)))

_COMMON_VOLUMES = (1, 1, 1, 2, 2, 3, 5, 5, 7, 10, 10, 10, 15, 20, 30, 50, 100, 100, 200, 500, 1_000)

# Milliseconds since the opening, symbol, price, volume, bid, ask.
_Print: TypeAlias = tuple[int, str, int, int, int, int]


def tick_size(price: Decimal) -> Decimal:
    """Return the smallest step of a share's price at this price, in KRW.

    It applies to shares only: ETFs, ETNs and ELWs have steps of their own. The table is in force since 25 January 2023.

    Args:
        price: In KRW, above zero.

    Raises:
        InvalidRecord: The price is not a finite Decimal above zero.
    """
    if not isinstance(price, Decimal) or not price.is_finite() or price <= 0:
        raise InvalidRecord(field="price", reason=f"{price!r} is not a finite Decimal above zero")
    return Decimal(_tick_size(int(price)))


def _tick_size(price: int) -> int:
    for bound, size in _TICK_SIZES:
        if price < bound:
            return size
    return _LARGEST_TICK_SIZE


def price_limits(base_price: Decimal) -> tuple[Decimal, Decimal]:
    """Return the lowest and the highest price of a day, in KRW.

    30 % of the base price, rounded down to whole ticks at the base price, are added and subtracted. The upper limit
    is then rounded down to whole ticks at itself. The lower limit needs no rounding, because ticks are finer below.

    Args:
        base_price: Usually the close of the day before, in KRW; a price that can be traded.

    Raises:
        InvalidRecord: The base price is not a multiple of its tick size, or so low that no price is left between its
            limits.
    """
    size = tick_size(base_price)
    base = int(base_price)
    if base != base_price or base % int(size):
        raise InvalidRecord(field="base_price", reason=f"{base_price} is not a multiple of its tick size {size}")
    lower, upper = _price_limits(base)
    if lower == upper:
        raise InvalidRecord(field="base_price", reason=f"30 % of {base_price} are less than a tick")
    return Decimal(lower), Decimal(upper)


def _price_limits(base: int) -> tuple[int, int]:
    size = _tick_size(base)
    width = base * 3 // 10 // size * size
    highest = base + width
    return base - width, highest - highest % _tick_size(highest)


def generate_day(
    date: dt.date,
    *,
    symbols: Sequence[str] = DEFAULT_SYMBOLS,
    seed: int = 1,
    ticks_per_symbol: int = 20_000,
    base_prices: Mapping[str, Decimal] | None = None,
    source: str = "krx-sample",
) -> Iterator[TickData]:
    """Generate the trades of one day, ordered by time.

    Every symbol has one trade of the opening auction at 09:00:00 and one of the closing auction at 15:30:00
    Korean time. Between them, until 15:20, orders arrive: most at both ends of the day. An order that matches several
    others gives several ticks in one millisecond. Some of them are equal in price and volume, too; as in a real feed
    these are different trades. The price moves by ticks between the day's price limits, and every trade is at the bid
    or at the ask. A symbol's ticks do not depend on the other symbols.

    Every date counts as a trading day under today's rules. The holidays of the exchange are not known here.

    Args:
        date: Day in Korea.
        symbols: Instruments, each once.
        seed: Another seed makes another day.
        ticks_per_symbol: Number of ticks of each symbol, at least two, for the auctions.
        base_prices: Base price by symbol, in KRW, in place of the built-in one.
        source: Feed to write into every tick.

    Returns:
        The ticks: times in UTC, prices in KRW, volumes in shares. Bid and ask are always given, seq never.

    Raises:
        InvalidRecord: A symbol occurs twice or is not a valid name, a base price is not possible, or
            ticks_per_symbol is below 2.
    """
    # 09:00 in Korea is 00:00 UTC: the country has had no summer time since 1988.
    opening = dt.datetime.combine(date, dt.time.min, tzinfo=dt.UTC)
    if len(set(symbols)) != len(symbols):
        raise InvalidRecord(field="symbols", reason="a symbol comes twice")
    if ticks_per_symbol < 2:
        raise InvalidRecord(field="ticks_per_symbol", reason="must be at least 2, for the two auctions")
    days = []
    for symbol in symbols:
        # Names and base prices are checked here, not when the first tick is taken.
        check_symbol(symbol)
        check_source(source)
        base = (base_prices or {}).get(symbol, _usual_base_price(symbol))
        price_limits(base)
        chance = _Chance(f"{seed}/{date.isoformat()}/{symbol}")
        days.append(_prints(chance, symbol, int(base), ticks_per_symbol))
    return _ticks(opening, source, merge(*days, key=itemgetter(0)))


def _usual_base_price(symbol: str) -> Decimal:
    base = _BASE_PRICES.get(symbol)
    if base is None:
        base = _OTHER_BASE_PRICES[_Chance(f"base/{symbol}").below(len(_OTHER_BASE_PRICES))]
    return Decimal(base)


class _Chance:
    """Numbers that look random and depend on a key alone."""

    def __init__(self, key: str) -> None:
        self._words = self._stream(key)

    @staticmethod
    def _stream(key: str) -> Iterator[int]:
        for block in count():
            yield from struct.unpack("<1024Q", hashlib.shake_256(f"{key}/{block}".encode()).digest(8192))

    def below(self, bound: int) -> int:
        """Return a number of range(bound). The bound must be far below 2**64, so that the bias is negligible."""
        return next(self._words) * bound >> 64


def _ticks(opening: dt.datetime, source: str, day: Iterator[_Print]) -> Iterator[TickData]:
    for milliseconds, symbol, price, volume, bid, ask in day:
        yield TickData(
            time=opening + dt.timedelta(milliseconds=milliseconds),
            symbol=symbol,
            price=Decimal(price),
            volume=Decimal(volume),
            source=source,
            bid=Decimal(bid),
            ask=Decimal(ask),
        )


def _prints(chance: _Chance, symbol: str, base: int, tick_count: int) -> Iterator[_Print]:
    """Yield one symbol's day: an auction, the orders of the day, an auction."""
    book = _Book(chance, base)
    book.move(chance.below(7) - 3)
    yield _OPENING, symbol, book.trade(), 20_000 + chance.below(60_000), book.bid, book.ask
    fills = _fills_of_orders(chance, tick_count - 2)
    for milliseconds, fill_count in zip(_times_of_orders(chance, len(fills)), fills, strict=True):
        draw = chance.below(1_000)
        book.move((draw < 12) - (12 <= draw < 24))
        price = book.trade()
        volume = 0
        for _ in range(fill_count):
            # Orders are often split into equal parts, which is why real trades contain exact duplicates.
            if not volume or chance.below(3):
                volume = _volume(chance)
            yield milliseconds, symbol, price, volume, book.bid, book.ask
    book.move(chance.below(5) - 2)
    yield _CLOSING, symbol, book.trade(), 20_000 + chance.below(60_000), book.bid, book.ask


def _fills_of_orders(chance: _Chance, tick_count: int) -> list[int]:
    """Return how many ticks each order gives, together `tick_count`."""
    fills = []
    left = tick_count
    while left:
        draw = chance.below(100)
        if draw < 70:
            fill_count = 1
        elif draw < 95:
            fill_count = 2 + chance.below(4)
        else:
            fill_count = 6 + chance.below(20)
        fills.append(min(fill_count, left))
        left -= fills[-1]
    return fills


def _times_of_orders(chance: _Chance, order_count: int) -> list[int]:
    """Return milliseconds since the opening, ascending, within continuous trading."""
    times = []
    for _ in range(order_count):
        minute = bisect_right(_ORDERS_UNTIL, chance.below(_ORDERS_UNTIL[-1]))
        # Only the opening auction uses its millisecond.
        times.append(minute * _MINUTE + 1 + chance.below(_MINUTE - 1))
    return sorted(times)


def _volume(chance: _Chance) -> int:
    if chance.below(100) < 60:
        return _COMMON_VOLUMES[chance.below(len(_COMMON_VOLUMES))]
    return 1 + chance.below(150)


class _Book:
    """The best bid and the best ask, always a tick or two apart and within the price limits."""

    def __init__(self, chance: _Chance, base: int) -> None:
        self._chance = chance
        self._lower, self._upper = _price_limits(base)
        self.bid = base
        self.ask = base
        self.move(0)

    def move(self, ticks: int) -> None:
        """Move the bid by this number of ticks, as far as the limits allow, and place the ask above it."""
        for _ in range(abs(ticks)):
            self.bid = self._above(self.bid) if ticks > 0 else self._below(self.bid)
        # At the upper limit the bid stays one tick below it.
        self.bid = min(max(self.bid, self._lower), self._below(self._upper))
        self.ask = self._above(self.bid)
        if self.ask < self._upper and self._chance.below(100) < 8:
            self.ask = self._above(self.ask)

    def trade(self) -> int:
        """Return the price of the next order: a seller's order trades at the bid, a buyer's at the ask."""
        return self.ask if self._chance.below(2) else self.bid

    @staticmethod
    def _above(price: int) -> int:
        return price + _tick_size(price)

    @staticmethod
    def _below(price: int) -> int:
        return price - _tick_size(price - 1)
