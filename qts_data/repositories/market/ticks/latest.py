"""The largest lead of a tick over the server's clock."""

from __future__ import annotations

import datetime as dt
import time

from qts_data.contracts.instants import MAX_AHEAD
from qts_data.errors import InvalidRecord

__all__ = ["MAX_AHEAD", "LatestTime"]


class LatestTime:
    """The latest instant that a load accepts. It advances with the clock while the load runs.

    Args:
        now: The server's clock at the start of the load.
        max_ahead: Largest lead of a tick over that clock.
    """

    def __init__(self, now: dt.datetime, max_ahead: dt.timedelta) -> None:
        self._now = now
        self._began = time.monotonic()
        self.max_ahead = max_ahead

    def at_present(self) -> dt.datetime:
        """Return the current latest instant."""
        try:
            return self._now + dt.timedelta(seconds=time.monotonic() - self._began) + self.max_ahead
        except OverflowError:
            return dt.datetime.max.replace(tzinfo=dt.UTC)

    def complaint(self, given: dt.datetime, latest: dt.datetime) -> InvalidRecord:
        """Return the error for a tick beyond the latest instant."""
        return InvalidRecord(
            field="time",
            reason=(
                f"{given.isoformat()} is {given - (latest - self.max_ahead)} ahead of the server's clock; "
                f"at most {self.max_ahead} are taken"
            ),
        )
