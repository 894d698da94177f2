"""Groups of a live feed, made ready for COPY."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qts_data.contracts.leniency import as_stored
from qts_data.repositories.market.ticks.sources import Numbering, batches_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qts_data.contracts import TickData
    from qts_data.repositories.market.ticks.batch import Batch

__all__ = ["Group", "live_numbering", "prepared"]


class Group(NamedTuple):
    """The next ticks of a stream.

    Attributes:
        ticks: In the order they came.
        batches: The same, numbered, sorted and encoded.
        numbering: What numbered them; groups of one numbering are to be loaded in the order they were prepared.
    """

    ticks: Sequence[TickData]
    batches: list[Batch]
    numbering: Numbering


def live_numbering() -> Numbering:
    """Counters for a feed that may go on for days: what they have forgotten, the table knows."""
    return Numbering(strict=False)


async def prepared(ticks: Sequence[TickData], numbering: Numbering) -> Group:
    """Make a group of these ticks.

    Their values were checked when the records were made. The permission under which a caller made them, or a spool was
    read, need not be in force here.
    """
    following = batches_of(ticks, batch_size=len(ticks), numbering=numbering, split=True, source=None, reject=None)
    with as_stored():
        made = await following()
    return Group(ticks, made[0] if made else [], numbering)
