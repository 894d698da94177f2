"""Named questions and writes of one aggregate each; they flush, they never commit."""

from qts_data.repositories.ticks import (
    BAR_INTERVALS,
    BarInterval,
    IngestReport,
    RefreshReport,
    TickRepository,
)

__all__ = ["BAR_INTERVALS", "BarInterval", "IngestReport", "RefreshReport", "TickRepository"]
