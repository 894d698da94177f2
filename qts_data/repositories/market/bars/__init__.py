"""Bars: official, of vendors, and made of ticks."""
