"""Fills, positions, P&L, parameters and limits."""
