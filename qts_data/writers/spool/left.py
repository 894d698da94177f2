"""The ticks that an earlier writer left in a spool."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from qts_data.contracts import TickData
from qts_data.writers.spool.format import Damage

if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = ["Left"]


@dataclass(slots=True)
class Left:
    """The rest of a stream.

    Attributes:
        stream: Its name in `ingest_batches`.
        position: Ticks that the spool had taken before it.
        ticks: Ticks by number, in order.
        places: File and record of each tick by number, for a person.
        damages: Parts that are missing or cannot be read.
        files: Its files.
        end: Number after the last tick that is known.
        listed: Number of files that were begun.
    """

    stream: str
    position: int = 0
    ticks: dict[int, TickData] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    damages: list[Damage] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    end: int = 0
    listed: int = 0

    def stretches(self, stored: int, size: int) -> Iterator[tuple[int, list[TickData]]]:
        """Yield groups of consecutive ticks that are not stored, each with the number of its first tick."""
        numbers = [number for number in self.ticks if number >= stored]
        for _, some in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
            run = [number for _, number in some]
            for start in range(0, len(run), size):
                part = run[start : start + size]
                yield part[0], [self.ticks[number] for number in part]

    def missing(self, stored: int) -> list[Damage]:
        """Return the damages that the table does not make good."""
        return [one for one in self.damages if one.end is None or one.end > stored or one.first == one.end]
