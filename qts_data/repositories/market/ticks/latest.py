"""How far ahead of the server's clock a tick may lie."""

from __future__ import annotations

import datetime as dt
import time

from qts_data.contracts.instants import MAX_AHEAD
from qts_data.errors import InvalidRecord

__all__ = ["MAX_AHEAD", "LatestTime"]


class LatestTime:
    """The latest instant that a load takes; it moves on with the clock while the load runs.

    Args:
        now: The server's clock at the start of the load.
        max_ahead: How far a tick may lie ahead of it.
    """

    def __init__(self, now: dt.datetime, max_ahead: dt.timedelta) -> None:
        self._now = now
        self._began = time.monotonic()
        self.max_ahead = max_ahead

    def at_present(self) -> dt.datetime:
        """The latest instant by now."""
        try:
            return self._now + dt.timedelta(seconds=time.monotonic() - self._began) + self.max_ahead
        except OverflowError:
            return dt.datetime.max.replace(tzinfo=dt.UTC)

    def complaint(self, given: dt.datetime, latest: dt.datetime) -> InvalidRecord:
        """The error for a tick beyond it."""
        return InvalidRecord(
            field="time",
            reason=(
                f"{given.isoformat()} is {given - (latest - self.max_ahead)} ahead of the server's clock; "
                f"at most {self.max_ahead} are taken"
            ),
        )
