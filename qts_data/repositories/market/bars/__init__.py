"""Bars: official bars, bars of vendors, and bars made from ticks."""
