"""The values that the engine checks before an order, read together in one round trip."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qts_data.cache.port import MISSING
from qts_data.contracts.config import ALL_ACCOUNTS
from qts_data.contracts.live import Precheck, RiskLimits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qts_data.cache.aside import CacheAside, Plan
    from qts_data.cache.loaders import Loaders
    from qts_data.cache.market import LiveMarket
    from qts_data.cache.plans import Plans

__all__ = ["effective_limits", "precheck_together"]


async def precheck_together(
    aside: CacheAside,
    market: LiveMarket,
    plans: Plans,
    loaders: Loaders,
    *,
    names: tuple[str, str, str, str, str],
    wanted: tuple[str, str, str],
) -> Precheck:
    """Read price, position, limits and parameters by one call of the cache. Load the missing ones.

    Args:
        aside: Cache, breaker and fences.
        market: Judges the price.
        plans: How position, limits and parameters are cached.
        loaders: Sources of position, limits and parameters.
        names: Keys of price, position, limits and parameters, and of the limits of all accounts.
        wanted: Symbol, account and strategy.
    """
    symbol, account, strategy_id = wanted
    entries = await aside.guarded(aside.cache.lookup_many, names, reads=len(names))
    quote, age = None, None
    found: list[Any] = [MISSING, MISSING, MISSING, MISSING]
    if entries is not None:
        quote, age = market.price_of(symbol, entries[0])
        accept = aside.accept
        found = [
            accept(names[1], plans.position, entries[1]),
            accept(names[2], plans.risk, entries[2]),
            accept(names[3], plans.strategy, entries[3]),
            accept(names[4], plans.risk, entries[4]),
        ]
    if MISSING in found:
        loads: list[tuple[str, Plan[Any], Callable[[], Awaitable[Any]]]] = [
            (names[1], plans.position, lambda: loaders.position(symbol, account)),
            (names[2], plans.risk, lambda: loaders.risk(account)),
            (names[3], plans.strategy, lambda: loaders.strategy(strategy_id)),
            (names[4], plans.risk, lambda: loaders.risk(ALL_ACCOUNTS)),
        ]
        missing = [place for place in range(4) if found[place] is MISSING]
        loaded = await asyncio.gather(*(aside.load(*loads[place]) for place in missing))
        for place, value in zip(missing, loaded, strict=True):
            found[place] = value
    risk = effective_limits(account, found[1], found[3])
    return Precheck(quote=quote, quote_age_seconds=age, position=found[0], risk=risk, strategy=found[2])


def effective_limits(account: str, own: RiskLimits | None, common: RiskLimits | None) -> RiskLimits | None:
    """Merge the limits of an account into those of all accounts. The account's own limits win."""
    if own is not None and common is None and own.account == account:
        return own
    if own is None and common is None:
        return None
    limits = {**(common.limits if common is not None else {}), **(own.limits if own is not None else {})}
    return RiskLimits(account=account, limits=limits)
