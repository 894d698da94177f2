"""How a part of the system is."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from qts_data.contracts.instants import utc_fields

__all__ = ["HealthStatus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthStatus:
    """The answer of a health check.

    Attributes:
        component: What was asked, such as `database`.
        healthy: Whether it can be used.
        detail: Version and figures, or why it cannot be used; for a person.
        latency_seconds: How long the answer took; None without one.
        checked_at: When it was asked.
    """

    component: str
    healthy: bool
    detail: str
    latency_seconds: float | None
    checked_at: dt.datetime

    def __post_init__(self) -> None:
        """Keep the instant in UTC."""
        utc_fields(self, "checked_at")
