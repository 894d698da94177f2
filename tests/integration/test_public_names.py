"""Every public method refuses a name that no row can have, since its answer would always be empty."""

from __future__ import annotations

import datetime as dt
import inspect
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import pytest

from qts_data.adapters import InMemoryAdapter, TimescaleDBAdapter
from qts_data.cache import CacheManager
from qts_data.cache.memory import MemoryCache
from qts_data.contracts.cache import CacheConfig
from qts_data.errors import InvalidRecord, QtsDataError
from qts_data.repositories import Database, Reader, UnitOfWork
from tests.fixtures.cache_rows import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import URL

NAMES: Final = {
    "account", "broker", "config_key", "destination", "execution_id", "order_id", "param_name", "source", "stage",
    "strategy", "strategy_id", "strategy_tag", "symbol", "symbols", "market",
}  # fmt: skip
AT: Final = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
OTHERS: Final[dict[str, Any]] = {
    "start": AT, "end": AT + dt.timedelta(hours=1), "day": AT.date(), "interval": "1m", "at": AT, "price": Decimal(1),
    "reason": "r", "calendar": "XKRX", "value": Decimal(1), "share": Decimal(1), "days": [AT.date()], "scope": "day",
    "limit": 1, "description": None, "time": AT, "after": AT, "first": AT.date(), "last": AT.date(), "ticks": [],
    "silent_for": dt.timedelta(minutes=1), "order": None,
}  # fmt: skip


def methods(owner: Any) -> Iterator[tuple[str, Any]]:
    """The public methods of an object and of the repositories that it hands out."""
    for name, member in inspect.getmembers_static(type(owner)):
        if name.startswith("_"):
            continue
        if isinstance(member, cached_property) and name not in {"connection", "session"}:
            yield from methods(getattr(owner, name))
        elif inspect.isfunction(member):
            yield f"{type(owner).__name__}.{name}", getattr(owner, name)


async def answer(made: Any) -> None:
    """Ask: a coroutine is awaited, a stream read."""
    if inspect.isawaitable(made):
        made = await made
    if hasattr(made, "__aiter__"):
        async for _ in made:
            break


# A listener of `Database.on_changed` gets names of stored rows, which may be odd.
LISTENERS: Final = {"CacheManager.position_changed"}


async def takes(owner: Any) -> tuple[list[str], int]:
    """Find the methods that accept an odd name, and the number of methods asked."""
    wrong, asked = [], 0
    for label, method in methods(owner):
        if label in LISTENERS:
            continue
        parameters = inspect.signature(method).parameters.values()
        given = {
            one.name: OTHERS.get(one.name, "A") for one in parameters if one.default is one.empty or one.name in NAMES
        }
        for one in parameters:
            if one.name not in NAMES or "str" not in str(one.annotation):
                continue
            asked += 1
            try:
                await answer(method(**given | {one.name: "x "}))
            except QtsDataError as error:
                refused = isinstance(error, InvalidRecord) and "ends with a blank" in error.reason
            else:
                refused = False
            if not refused:
                wrong.append(f"{label}({one.name})")
    return wrong, asked


@pytest.mark.parametrize("kind", ["reader", "uow", "memory", "timescale", "cache"])
async def test_public_methods_refuse_a_name_with_a_blank(database_url: URL, kind: str) -> None:
    async with Database(database_url) as database:
        if kind == "reader":
            async with database.reader() as reader:
                wrong, asked = await takes(reader)
        elif kind == "uow":
            async with database.engine.connect() as connection:
                wrong, asked = await takes(UnitOfWork(connection))
        elif kind == "cache":
            async with CacheManager(CacheConfig(), Source().loaders, cache=MemoryCache()) as manager:
                wrong, asked = await takes(manager)
        else:
            wrong, asked = await takes(InMemoryAdapter() if kind == "memory" else TimescaleDBAdapter(database))
    assert not wrong, "; ".join(wrong)
    assert asked > 3


def test_walk_finds_the_repositories() -> None:
    found = {name for name, member in inspect.getmembers_static(Reader) if isinstance(member, cached_property)}
    assert {"ledger", "positions", "ticks", "risk_configs"} <= found
