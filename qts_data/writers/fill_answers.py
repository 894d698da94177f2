"""Helpers of the writer of fills: answers for its callers, and a check of its connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
from typing import TYPE_CHECKING, Any

from qts_data.errors import DatabaseError, DatabaseUnavailable, OutcomeUnknown, TransactionConflict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import psycopg
    from sqlalchemy.pool import PoolProxiedConnection

    from qts_data.contracts import BookedFill

__all__ = ["answer_all", "has_unread_input", "is_refusal", "logged"]

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def logged(listener: object) -> Iterator[None]:
    """Log an exception of a listener. The fills stay committed, whatever it raises."""
    try:
        yield
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the listener may raise a CancelledError itself
        _log.exception("a listener failed after fills had been committed: %r", listener)


def answer_all(
    answers: Sequence[asyncio.Future[BookedFill]], errors: Mapping[int, Exception], results: Mapping[int, BookedFill]
) -> None:
    """Answer the callers that still wait. Errors and results are by the place of the fill."""
    for index, answer in enumerate(answers):
        if not answer.done():
            if (refused := errors.get(index)) is not None:
                answer.set_exception(refused)
            else:
                answer.set_result(results[index])


def is_refusal(error: Exception) -> bool:
    """Return whether the server refused a part of the data that it was sent, and booked nothing."""
    return isinstance(error, DatabaseError) and not isinstance(
        error, DatabaseUnavailable | TransactionConflict | OutcomeUnknown
    )


def has_unread_input(lease: PoolProxiedConnection) -> bool:
    """Return whether the server has sent data without a query, or the connection is closed."""
    driver: psycopg.AsyncConnection[Any] | None = lease.driver_connection
    if driver is None or driver.closed:
        return True
    look = select.poll()
    look.register(driver.fileno(), select.POLLIN)
    return bool(look.poll(0))
