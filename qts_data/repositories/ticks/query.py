"""Ticks out: one COPY whose rows have a fixed length, read as columns or as records.

The server sends each number as an integer of 1/100,000,000, which is exact, and shorter to send and to read than
NUMERIC: prices fit 64 bits, volumes come in two pieces where they do not. So a result is one array of equal rows,
which Arrow can take as it is and the standard library can read without any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import struct
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import psycopg
import sqlalchemy as sa

from qts_data.contracts import TickData
from qts_data.database.errors import translated_errors
from qts_data.extras import require

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from psycopg import AsyncCopy
    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.repositories.ticks.reports import TickTable

__all__ = ["TickQuery"]

_NO_PRICE: Final = -(2**63)
_HEADER_BYTES: Final = 19
_TRAILER: Final = b"\xff\xff"
_EPOCH: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_EPOCH_MICROSECONDS: Final = int(_EPOCH.timestamp()) * 1_000_000
_ROWS_OF_A_PIECE: Final = 65_536
# A turn of the loop takes about a millisecond.
_ROWS_OF_A_TURN: Final = 1_000
_VOLUME_UNIT: Final = 10**8  # a volume is `high` of these and `low` of 1/100,000,000

_COPY: Final = """
    COPY (
        SELECT time, seq, (price * 100000000)::bigint,
               coalesce((bid * 100000000)::bigint, {no_price}), coalesce((ask * 100000000)::bigint, {no_price}),
               CASE WHEN volume < 90000000000 THEN 0 ELSE div(volume, 100000000)::bigint END,
               (CASE WHEN volume < 90000000000 THEN volume ELSE mod(volume, 100000000) END * 100000000)::bigint,
               coalesce(array_position(%(sources)s::text[], source), 0)
          FROM {table}
         WHERE symbol = %(symbol)s AND time >= %(start)s AND time < %(end)s {source}
         ORDER BY symbol, time, source, seq
    ) TO STDOUT WITH (FORMAT binary)
"""
_ROW: Final = struct.Struct(">h iq iq iq iq iq iq iq ii")


class TickQuery:
    pass
