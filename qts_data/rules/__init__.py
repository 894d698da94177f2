"""Arithmetic without a database."""
