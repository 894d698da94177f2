"""Permissions that relax the checks of records: implausible times, and texts that no new record may hold.

Each permission is a context variable. It reaches the tasks and threads that asyncio starts in the block, and no others.
Never yield from an async generator inside such a block: its caller would inherit the permission.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import Token

__all__ = [
    "allow_any_time",
    "any_text",
    "any_text_allowed",
    "any_time",
    "any_time_allowed",
    "as_stored",
    "reads_stored",
]

_TIME: Final[ContextVar[bool]] = ContextVar("any_time", default=False)
_ANY, _STORED = 1, 2
_TEXT: Final[ContextVar[int]] = ContextVar("any_text", default=0)


class _Process:
    any_time = False


@contextlib.contextmanager
def any_time() -> Iterator[None]:
    """Allow times outside the plausible range in this block, and in tasks and threads that asyncio starts in it.

    Backtests with a clock of their own and loads of old histories use it.
    """
    token = _TIME.set(True)
    try:
        yield
    finally:
        _TIME.reset(token)


def allow_any_time(allowed: bool = True) -> None:
    """Allow times outside the plausible range in the whole process, or refuse them again."""
    _Process.any_time = allowed


def any_time_allowed() -> bool:
    """Tell whether times outside the plausible range are allowed here."""
    return _Process.any_time or _TIME.get()


@contextlib.contextmanager
def any_text() -> Iterator[None]:
    """Allow names and ids that hold blanks at an end, invisible characters or a form other than NFC in this block.

    Use it to read and reverse entries with such names, which were stored before the checks existed.
    """
    token = _TEXT.set(_ANY)
    try:
        yield
    finally:
        _TEXT.reset(token)


def any_text_allowed() -> bool:
    """Tell whether names and ids of any form are allowed here."""
    return _TEXT.get() != 0


def reads_stored() -> bool:
    """Tell whether records are being made from rows that a table already holds."""
    return _TEXT.get() == _STORED


class as_stored:  # noqa: N801 - used like a function; a generator would take three times as long
    """Make records from rows that a table already holds. Every stored row can be read."""

    __slots__ = ("_text", "_time")

    _time: Token[bool]
    _text: Token[int]

    def __enter__(self) -> Self:
        self._time = _TIME.set(True)
        self._text = _TEXT.set(_STORED)
        return self

    def __exit__(self, *_: object) -> None:
        _TEXT.reset(self._text)
        _TIME.reset(self._time)
