"""Faults of requests, and the order in which they occur."""

from __future__ import annotations

import random
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Faults: TypeAlias = Callable[[str], "Fault | None"]

__all__ = ["Fault", "faults_at_random", "faults_in_order"]


class Fault(Enum):
    """One way to fail."""

    QUOTA = "429: refused, nothing done"
    ERROR = "500: nothing done"
    ERROR_AFTER = "500: done nevertheless"
    UNAVAILABLE = "503: nothing done"
    DROP = "the connection ends, nothing done"
    DROP_AFTER = "done, then the connection ends without an answer"
    SLOW = "done, then no answer for a while"
    LATE = "nothing for a while, then it is done"


def faults_in_order(faults: Iterable[Fault | None], method: str | None = None) -> Faults:
    """Give the next request the next fault. After the last one, requests succeed.

    Args:
        faults: One for each request; None lets it pass.
        method: Only requests of this HTTP method count.
    """
    following = iter(list(faults))
    return lambda given: next(following, None) if method in {None, given} else None


def faults_at_random(
    seed: int, share: float, kinds: Iterable[Fault] = tuple(Fault), weights: Iterable[float] | None = None
) -> Faults:
    """Let a share of all requests fail. The seed decides which ones and how."""
    chosen, heavy = list(kinds), None if weights is None else list(weights)
    dice = random.Random(seed)  # noqa: S311 - the sequence must be repeatable
    return lambda _method: dice.choices(chosen, heavy)[0] if dice.random() < share else None
