"""Execution of orders, stage by stage."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal

from qts_data.contracts.checks import check_decimal, check_symbol, shown
from qts_data.contracts.identity import check_identifier
from qts_data.contracts.instants import plausible, utc_fields
from qts_data.errors import InvalidRecord

__all__ = ["ExecutionLog", "HourlyExecutionMetrics", "StageLatency"]

_MAX_ID_LENGTH = 256
_MAX_NAME_LENGTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionLog:
    """One stage of one order.

    Attributes:
        time: End of the stage.
        order_id: The order.
        symbol: Its instrument.
        stage: The stage, such as `SUBMIT` or `FILL`.
        latency_ms: Length of the stage in milliseconds, 0 or more, at most 3 decimal places.
        success: Whether it succeeded.
        error_code: Code of the error, or None.

    Raises:
        InvalidRecord: A field is of the wrong type or cannot be stored, the time is implausible (see `any_time`), or a
            name or id looks like another one.
    """

    time: dt.datetime
    order_id: str
    symbol: str
    stage: str
    latency_ms: Decimal
    success: bool
    error_code: str | None = None

    def __post_init__(self) -> None:
        """Raise `InvalidRecord` for values that the table would refuse or store as something else."""
        object.__setattr__(self, "time", plausible("time", self.time))
        check_symbol(self.symbol)
        check_identifier("order_id", self.order_id, shortest=1, longest=_MAX_ID_LENGTH)
        check_identifier("stage", self.stage, shortest=1, longest=_MAX_NAME_LENGTH)
        check_decimal("latency_ms", self.latency_ms, integer_digits=7, places=3)
        if self.latency_ms < 0:
            raise InvalidRecord(field="latency_ms", reason=f"{shown(self.latency_ms)} is below zero")
        if not isinstance(self.success, bool):
            raise InvalidRecord(field="success", reason=f"must be a bool, is {type(self.success).__name__}")
        if self.error_code is not None:
            check_identifier("error_code", self.error_code, shortest=1, longest=_MAX_ID_LENGTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLatency:
    """Latency of a stage over a period, in milliseconds, successes and failures together.

    Attributes:
        stage: The stage.
        count: Number of runs.
        failure_count: Number of failed runs.
        avg_ms: Mean.
        p50_ms: Median, interpolated like the other percentiles.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
        max_ms: Longest.
    """

    stage: str
    count: int
    failure_count: int
    avg_ms: Decimal
    p50_ms: Decimal
    p95_ms: Decimal
    p99_ms: Decimal
    max_ms: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class HourlyExecutionMetrics:
    """A stage in one hour, as the continuous aggregate keeps it for 180 days.

    Attributes:
        hour: Start of the hour.
        stage: The stage.
        avg_latency_ms: Mean in milliseconds.
        p99_latency_ms: 99th percentile in milliseconds.
        success_count: Number of successful runs.
        failure_count: Number of failed runs.
    """

    hour: dt.datetime
    stage: str
    avg_latency_ms: Decimal
    p99_latency_ms: Decimal
    success_count: int
    failure_count: int

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "hour")
