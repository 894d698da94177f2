"""Writers for live feeds with their own transactions: fills and ticks in groups, and the spool."""

from qts_data.writers.fills import FillWriter
from qts_data.writers.parts import load_in_parts
from qts_data.writers.ticks import AtBound, Durability, TickQueueFull, TickWriter, WriterStats

__all__ = ["AtBound", "Durability", "FillWriter", "TickQueueFull", "TickWriter", "WriterStats", "load_in_parts"]
