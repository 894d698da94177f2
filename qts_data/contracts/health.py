"""Health of a part of the system."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from qts_data.contracts.instants import utc_fields

__all__ = ["HealthStatus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthStatus:
    """The answer of a health check.

    Attributes:
        component: The part that was checked, such as `database`.
        healthy: Whether it can be used.
        detail: Version and figures, or the reason why it cannot be used; for a person.
        latency_seconds: Time until the answer; None without an answer.
        checked_at: Time of the check.
    """

    component: str
    healthy: bool
    detail: str
    latency_seconds: float | None
    checked_at: dt.datetime

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "checked_at")
