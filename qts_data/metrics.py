"""Counters and histograms for hot paths; empty until operations are built."""

__all__: list[str] = []
