"""The Python blocks of each page run in order, in one namespace, as they are printed.

A page may use names that it does not define, such as a fill that an engine has. `HIDDEN` gives them, `AFTERWARDS`
proves that a page did what it says. A printed comment behind `print(...)` is compared with the output.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from qts_data import Database, Durability, Quote, TickWriter
from qts_data.database.engine import engine
from qts_data.errors import InvalidRecord
from qts_data.timescale.edition import create_extension
from tests.fixtures.factories import FillFactory, TickFactory
from tests.fixtures.pages import Block, blocks, pages_with, run_python

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from sqlalchemy.engine import URL, Connection

NOW: Final = dt.datetime(2026, 11, 20, 1, 0, tzinfo=dt.UTC)


@dataclass(slots=True)
class World:
    """What the blocks of a page run in.

    Attributes:
        url: A migrated database.
        runner: Runs the page's coroutines in one event loop.
        stack: Closes the resources of the page.
        names: The namespace of the page.
    """

    url: URL
    runner: asyncio.Runner
    stack: ExitStack
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the page's event loop."""
        return self.runner.run(work)

    def database(self) -> Database:
        """Open a database that is closed at the end."""
        made = Database(self.url)
        self.stack.callback(lambda: self.wait(made.dispose()))
        return made

    def connection(self) -> Connection:
        """Open a blocking connection that is closed at the end."""
        return self.stack.enter_context(engine(self.url).connect())


def book_identity(world: World) -> None:
    world.names["url"] = world.url.render_as_string(hide_password=False)


def book_entry(world: World) -> None:
    world.stack.callback(lambda: world.wait(world.names["database"].dispose()))
    world.names["entry"] = FillFactory.build(broker="kis")


def book_busts(world: World) -> None:
    async def book() -> None:
        async with world.names["database"].transaction() as uow:
            for number in (17, 18):
                await uow.ledger.record_fill(FillFactory.build(broker="kis", execution_id=f"T{number}"))

    world.wait(book())
    world.names |= {"at": NOW, "right_fill": FillFactory.build(broker="kis", execution_id="T18b", price=Decimal(90))}


def hot_engine(world: World) -> None:
    async def book() -> None:
        async with Database(world.url) as database, database.transaction() as uow:
            await uow.strategies.upsert_parameters("lots/KRX", {"005930": 10})

    world.wait(book())
    world.names |= {
        "engine": SimpleNamespace(emit=lambda _event: None, wait=lambda _why: None),
        "fill": FillFactory.build(),
        "quote": Quote(symbol="005930", price=Decimal(71_500), quoted_at=dt.datetime.now(dt.UTC)),
    }


def hot_close(world: World) -> None:
    world.stack.callback(lambda: world.wait(world.names["database"].dispose()))


def market_tick(world: World) -> None:
    world.names |= {"database": world.database(), "tick": TickFactory.build(seq=1)}


def market_refused(world: World) -> None:
    """Leave a tick in a spool that the table refuses."""
    refused = TickFactory.build(seq=1, time=world.names["tick"].time, price=Decimal(1))

    async def leave() -> None:
        writer = TickWriter(
            world.names["database"], spool=Path("spool"), durability=Durability.SPOOLED, group_seconds=60
        )
        await writer.start()
        await writer.write(refused)
        with pytest.raises(InvalidRecord):
            await writer.close()

    world.wait(leave())
    world.names["refused"] = refused


def market_stream(world: World) -> None:
    start = world.names["tick"].time.replace(minute=0, second=0, microsecond=0)  # bars are read from whole buckets
    world.names |= {
        "start": start, "end": start + dt.timedelta(hours=1), "limit": Decimal(71_000), "fill": FillFactory.build(),
    }  # fmt: skip


def alembic_context(world: World) -> None:
    config = Config()
    config.set_main_option("script_location", "qts_data:timescale")
    context = EnvironmentContext(config, ScriptDirectory(str(world.names["folder"])), as_sql=False)
    world.names |= {"context": context, "metadata": sa.MetaData(), "connection": world.connection()}


def made_readings(world: World) -> None:
    """Create what the page declares, and drop its declaration of `hourly`."""
    with engine(world.url).begin() as connection:
        create_extension(connection)
        world.names["metadata"].create_all(connection)
    world.names |= {"declared": world.names["metadata"], "metadata": sa.MetaData()}


def operations(world: World) -> None:
    context = MigrationContext.configure(world.connection())
    world.names["op"] = world.stack.enter_context(Operations.context(context))


def upgrade(world: World) -> None:
    world.names["upgrade"]()
    world.names["op"].get_bind().commit()


def drifted(world: World) -> None:
    upgrade(world)
    made = engine(world.url)
    world.stack.callback(made.dispose)
    world.names |= {"metadata": world.names["declared"], "engine": made}


HIDDEN: Final[dict[tuple[str, int], Callable[[World], None]]] = {
    ("docs/book.md", 1): book_identity,
    ("docs/book.md", 3): book_entry,
    ("docs/book.md", 4): book_busts,
    ("docs/hot-tier.md", 0): hot_engine,
    ("docs/hot-tier.md", 1): hot_close,
    ("docs/market-data.md", 0): market_tick,
    ("docs/market-data.md", 1): market_refused,
    ("docs/market-data.md", 2): market_stream,
    ("docs/timescale-alembic.md", 0): alembic_context,
    ("docs/timescale-alembic.md", 2): made_readings,
    ("docs/timescale-alembic.md", 3): operations,
    ("docs/timescale-alembic.md", 5): drifted,
}
"""Before which block of a page: what a reader has, and the page does not show."""


def book_is_right(world: World) -> None:
    async def ask() -> tuple[Any, int]:
        async with Database(world.url) as database, database.reader() as reader:
            return await reader.positions.get_position("005930"), len(await reader.ledger.list_entries(symbol="005930"))

    position, entries = world.wait(ask())
    assert (position.qty, entries) == (30, 7)  # 10 of the first block, of the third, and of the correction


def seen_from_redis(world: World) -> None:
    assert world.names["seen"].position is None
    assert world.names["booked"].position.qty == 10


def refused_is_set_aside(world: World) -> None:
    assert len(world.names["bars"]) == 1


def plant_only(world: World) -> None:
    ask = world.names["include_name"]
    assert [ask(name, "schema", {}) for name in (None, "plant", "public")] == [True, True, False]
    assert ask("anything", "table", {})


AFTERWARDS: Final[dict[str, Callable[[World], None]]] = {
    "docs/book.md": book_is_right,
    "docs/hot-tier.md": seen_from_redis,
    "docs/market-data.md": refused_is_set_aside,
    "docs/timescale-alembic.md": plant_only,
}
"""What a page's blocks have done."""

PAGES: Final = pages_with("python")


def promised(block: Block) -> list[str]:
    """The outputs that a block's comments promise."""
    return re.findall(r"^ *print\(.*\)  # (.+)$", block.text, re.MULTILINE)


@pytest.fixture
def world(database_url: URL, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A folder, a database and a Redis for one page. All that its blocks leave open is closed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QTS_DATABASE_URL", database_url.render_as_string(hide_password=False))
    monkeypatch.setenv("QTS_REDIS_URL", redis_url)
    with asyncio.Runner() as runner, ExitStack() as stack:
        made = World(database_url, runner, stack)
        made.names["folder"] = tmp_path
        yield made


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_runs_as_printed(page: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for number, block in enumerate(blocks("python", page)):
        if (page, number) in HIDDEN:
            HIDDEN[page, number](world)
        run_python(world.runner, block, world.names)
        assert_in_order(promised(block), capsys.readouterr().out, block.place)
    if page in AFTERWARDS:
        AFTERWARDS[page](world)


def assert_in_order(wanted: list[str], printed: str, place: str) -> None:
    lines = iter(printed.splitlines())
    assert all(line in lines for line in wanted), f"{place}: {printed}"


def test_hidden_names_belong_to_blocks_that_exist() -> None:
    counts = {page: len(blocks("python", page)) for page in PAGES}
    assert all(number < counts[page] for page, number in HIDDEN)
    assert set(AFTERWARDS) <= set(PAGES)
