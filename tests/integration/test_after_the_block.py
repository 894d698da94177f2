"""A unit of work or a reader that is used after its block raises an error of the package."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from qts_data import Database, DatabaseError
from tests.fixtures.factories import FillFactory, TickFactory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.engine import URL

DAY = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
NEXT = DAY + dt.timedelta(days=1)

WRITES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "limit": lambda uow: uow.risk_configs.upsert_limit("a", Decimal(1)),
    "parameter": lambda uow: uow.strategies.delete_parameter("s", "p"),
    "fill": lambda uow: uow.ledger.record_fill(FillFactory.build()),
    "fills": lambda uow: uow.ledger.record_fills([FillFactory.build()]),
    "ticks": lambda uow: uow.ticks.ingest([TickFactory.build()]),
    "savepoint": lambda uow: uow.savepoint().__aenter__(),
}
READS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "positions": lambda reader: reader.positions.list_positions(),
    "entry": lambda reader: reader.ledger.find_entry("b", "a", "1"),
    "latest": lambda reader: reader.ticks.latest("A"),
    "bars": lambda reader: reader.ticks.bars("A", DAY, NEXT, "1m"),
    "arrow": lambda reader: reader.ticks.ticks("A", DAY, NEXT).as_arrow(),
    "records": lambda reader: reader.ticks.ticks("A", DAY, NEXT).as_records(),
    "limits": lambda reader: reader.risk_configs.list_limits(),
}


@pytest.mark.parametrize("what", WRITES)
async def test_a_unit_of_work_after_its_block_is_refused(database_url: URL, what: str) -> None:
    async with Database(database_url) as database:
        async with database.transaction() as uow:
            pass
        with pytest.raises(DatabaseError):
            await WRITES[what](uow)


@pytest.mark.parametrize("what", READS)
async def test_a_reader_after_its_block_is_refused(database_url: URL, what: str) -> None:
    async with Database(database_url) as database:
        async with database.reader() as reader:
            pass
        with pytest.raises(DatabaseError):
            await READS[what](reader)
