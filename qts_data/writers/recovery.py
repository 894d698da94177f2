"""Recovery: sends the ticks that earlier writers left in a spool."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

from qts_data.errors import InvalidRecord
from qts_data.repositories.market.ticks.groups import live_numbering, prepared

if TYPE_CHECKING:
    from collections.abc import Callable

    from qts_data.repositories.market.reports import IngestReport
    from qts_data.writers.sending import Sender
    from qts_data.writers.spool.format import Damage
    from qts_data.writers.spool.left import Left
    from qts_data.writers.spool.spool import Spool

__all__ = ["located", "recover"]

_log = logging.getLogger(__name__)
_ANY_NUMBER: Final = sys.maxsize


async def recover(
    spool: Spool,
    sender: Sender,
    left: Left,
    *,
    group_size: int,
    known: Callable[[int], None],
    stored: Callable[[int, IngestReport | None], None],
) -> list[Damage]:
    """Send a stream that an earlier writer left, and remove its files.

    Args:
        spool: The spool that holds the stream.
        sender: Sends the groups.
        left: The stream.
        group_size: Most ticks of a group.
        known: Called with the number of ticks that are stored already.
        stored: Called after each group with the number of its ticks and its report.

    Returns:
        Damages that the table does not make good. Their files were set aside before the other ticks were sent.

    Raises:
        InvalidRecord: The table holds a different tick under a key; the message names the place in the spool.
        QtsDataError: The table refuses ticks for a reason that does not pass.
    """
    there = await sender.stored(left.stream)
    await spool.learn(left, there)
    known(sum(number < there for number in left.ticks))
    missing = left.missing(there)
    if missing:
        await spool.set_aside(left, missing)
        for damage in missing:
            _log.error("a spool is damaged, and the rest of it is sent: %s", damage)
    for first, ticks in left.stretches(there, group_size):
        try:
            group = await prepared(ticks, live_numbering())
            sent = await sender.send(group, left.stream, first, _ANY_NUMBER)
        except InvalidRecord as error:
            raise located(error, left.places[first]) from error
        stored(len(ticks), sent.report)
    await spool.drained(left, missing)
    return missing


def located(error: InvalidRecord, place: str) -> InvalidRecord:
    """Add the group's place in the spool to an error."""
    return InvalidRecord(
        field=error.field, reason=f"{error.reason}; the tick is in the spool, at or behind {place}", row=error.row
    )
