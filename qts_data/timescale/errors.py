"""Errors of the TimescaleDB layer, which imports no other package of ours."""

from __future__ import annotations

__all__ = ["DeclarationError", "ServerNotSupported", "TimescaleError"]


class TimescaleError(Exception):
    """Root of the errors of this layer."""


class DeclarationError(TimescaleError, ValueError):
    """A declaration beside a model contradicts the table, another declaration or the server's rules."""


class ServerNotSupported(TimescaleError, RuntimeError):
    """The server is too old, or lacks a needed feature that cannot be installed."""
