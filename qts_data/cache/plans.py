"""The plans of a manager: codec, version, TTL and key of each kind, in one state of the engine."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from qts_data.cache import codec
from qts_data.cache.plan import Plan
from qts_data.cache.port import version_text
from qts_data.contracts.cache import CacheType

if TYPE_CHECKING:
    from qts_data.cache.keys import Keys
    from qts_data.contracts import Position
    from qts_data.contracts.cache import CacheConfig, OperatingState
    from qts_data.contracts.live import OrderState, RiskLimits, StrategyParameters

__all__ = ["Plans", "microseconds", "position_version"]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


def microseconds(instant: dt.datetime) -> int:
    """Return the microseconds since 1970, or 0 for earlier instants."""
    return max((instant - _EPOCH) // _MICROSECOND, 0)


def position_version(position: Position) -> str:
    """Return the version of a position: its last ledger entry and, between valuations, the row's last change."""
    return version_text(position.last_ledger_id, microseconds(position.updated_at))


class Plans:
    """How a manager caches each kind in one state of the engine.

    Args:
        config: TTLs.
        keys: Makes the keys that values are compared with.
        state: The engine's operating state.
        near: Whether positions, limits and parameters may be kept in the process.
    """

    def __init__(self, config: CacheConfig, keys: Keys, state: OperatingState, *, near: bool) -> None:
        self.price_ttl_ms: int = config.ttl(CacheType.PRICE, state)
        self.book_ttl_ms: int = config.ttl(CacheType.ORDERBOOK, state)
        self.position: Plan[Position] = Plan(
            codec=codec.POSITION,
            ttl_ms=config.ttl(CacheType.POSITION, state),
            version=position_version,
            none_version=version_text(0),
            near=near,
            key_of=keys.of_position,
        )
        self.risk: Plan[RiskLimits] = Plan(
            codec=codec.RISK,
            ttl_ms=config.ttl(CacheType.RISK, state),
            near=near,
            jitter=True,
            key_of=lambda limits: keys.key(CacheType.RISK, limits.account),
        )
        self.strategy: Plan[StrategyParameters] = Plan(
            codec=codec.STRATEGY,
            ttl_ms=config.ttl(CacheType.STRATEGY, state),
            near=near,
            jitter=True,
            key_of=lambda parameters: keys.key(CacheType.STRATEGY, parameters.strategy_id),
        )
        self.order: Plan[OrderState] = Plan(
            codec=codec.ORDER,
            ttl_ms=config.ttl(CacheType.ORDER, state),
            version=lambda order: version_text(microseconds(order.updated_at)),
            key_of=lambda order: keys.key(CacheType.ORDER, order.order_id),
        )
