"""Counters and histograms for hot paths. Empty until operations are built."""

__all__: list[str] = []
