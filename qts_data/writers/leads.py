"""Warnings about ticks that are ahead of the server's clock. A live feed stores them and goes on."""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qts_data.repositories.market.reports import IngestReport, Lead

__all__ = ["LeadLog"]

_log = logging.getLogger(__name__)
_NAMED_AT_ONCE: Final = 5
_AGAIN_AFTER: Final = dt.timedelta(minutes=1)


class LeadLog:
    """Logs ticks that are further ahead than the bound: for each symbol and feed once a minute of tick time.

    Args:
        name: Name of the feed, for the log.
        max_ahead: Ticks up to this far ahead are counted and not logged; None logs none.
    """

    def __init__(self, name: str, max_ahead: dt.timedelta | None) -> None:
        self._name = name
        self._max_ahead = max_ahead
        self._named: dict[tuple[str, str], dt.datetime] = {}

    def take(self, report: IngestReport | None) -> None:
        """Log the new leads of a group that is stored."""
        limit = self._max_ahead
        if report is None or not report.leads or limit is None:
            return
        found = [one for one in report.leads if one.by > limit and self._is_new(one)]
        if not found:
            return
        named = "; ".join(str(one) for one in found[:_NAMED_AT_ONCE])
        more = f"; and {len(found) - _NAMED_AT_ONCE:,} more" if len(found) > _NAMED_AT_ONCE else ""
        _log.warning(
            "ticks of the writer %s lie ahead of the server's clock; they are stored, and no closed bar holds them "
            "before their time: %s%s",
            self._name,
            named,
            more,
        )

    def _is_new(self, lead: Lead) -> bool:
        pair = (lead.symbol, lead.source)
        named = self._named.get(pair)
        if named is not None and abs(lead.last - named) < _AGAIN_AFTER:
            return False
        self._named[pair] = lead.last
        return True
