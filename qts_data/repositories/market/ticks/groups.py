"""Groups of a live feed, prepared for COPY."""

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
        ticks: Ticks in the order of their arrival.
        batches: The same ticks, numbered, sorted and encoded.
        numbering: The counters that numbered them. Load groups of one numbering in the order of their preparation.
    """

    ticks: Sequence[TickData]
    batches: list[Batch]
    numbering: Numbering


def live_numbering() -> Numbering:
    """Make counters for a feed that may run for days. The table knows the instants that they have forgotten."""
    return Numbering(strict=False)


async def prepared(ticks: Sequence[TickData], numbering: Numbering) -> Group:
    """Prepare a group of these ticks.

    Their values were checked when the records were made. The permission under which the caller made them, or read a
    spool, need not be in force here.
    """
    following = batches_of(ticks, batch_size=len(ticks), numbering=numbering, split=True, source=None, reject=None)
    with as_stored():
        made = await following()
    return Group(ticks, made[0] if made else [], numbering)
