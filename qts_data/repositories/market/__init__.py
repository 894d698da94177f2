"""Ticks, bars, gaps and sessions."""
