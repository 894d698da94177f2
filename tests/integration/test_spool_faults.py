"""A writer is killed, its spool is damaged, and the next writer stores the ticks in the table."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import shutil
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import pytest_asyncio
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qts_data.contracts import any_text, any_time
from qts_data.repositories import Database
from qts_data.writers import Durability, TickWriter
from qts_data.writers.spool import files as spool_files
from tests.fixtures.effort import amount
from tests.fixtures.factories import TickFactory
from tests.fixtures.spool_faults import FILE_FAULTS, damage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

    from qts_data.contracts import TickData
    from qts_data.repositories import IngestReport
    from qts_data.writers.spool.format import Damage
    from tests.fixtures.fix_proxy import Proxy

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
AT = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
FOR_EVER = (dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, tzinfo=dt.UTC))
symbols = (f"D{number}" for number in itertools.count())


@pytest_asyncio.fixture
async def market(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


def tick(price: int, symbol: str) -> TickData:
    return TickFactory.build(time=AT, symbol=symbol, price=Decimal(price), volume=Decimal(1))


async def prices(database: Database, symbol: str) -> list[int]:
    with any_text():
        async with database.reader() as reader:
            return [int(one.price) for one in await reader.ticks.ticks(symbol, *FOR_EVER)]


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


class Acknowledged(NamedTuple):
    """The price of a tick, and its place in the spool."""

    price: int
    stream: str
    number: int


def is_named(one: Acknowledged, damages: set[Damage]) -> bool:
    identity = one.stream.partition("/")[2]
    return any(
        identity in found.file and found.first <= one.number and (found.end is None or one.number < found.end)
        for found in damages
    )


async def killed(
    market: Database, directory: Path, symbol: str, prices_: range, stored: int
) -> tuple[Path, list[Acknowledged], set[Damage], str]:
    """Write ticks, store a number of them in the table, and leave the files as after a kill."""
    writer = TickWriter(market, spool=directory, durability=Durability.SPOOLED, group_seconds=60)
    await writer.start()
    stream = writer._stream  # noqa: SLF001 - the files have it in their names
    taken: list[Acknowledged] = []
    for number, price in enumerate(prices_):
        await writer.write(tick(price, symbol))
        taken.append(Acknowledged(price, stream, number))
        if number + 1 == stored:
            await writer.flush()
    left = directory.with_name(f"{directory.name}x")
    assert writer._spool is not None  # noqa: SLF001
    # Copied in the thread that changes the files: the copy is of one moment, as after a kill.
    await writer._spool._in_thread(lambda: shutil.copytree(directory, left))  # noqa: SLF001
    await writer.abandon()
    return left, taken, set(writer.damages), stream


LIVES = st.lists(
    st.tuples(
        st.integers(0, 25),  # ticks
        st.integers(0, 12),  # of them stored
        st.lists(st.tuples(st.sampled_from(FILE_FAULTS), st.integers(0, 2**32)), max_size=3),
    ),
    min_size=1,
    max_size=3,
)


@settings(
    max_examples=amount(12, 150, "QTS_TEST_SPOOL_EXAMPLES"),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(lives=LIVES)
async def test_damaged_spool_is_stored_or_named(
    market: Database, lives: list[tuple[int, int, list[tuple[str, int]]]]
) -> None:
    """After several kills each acknowledged tick is stored exactly once, or a reported damage names its record."""
    symbol = next(symbols)
    taken: list[Acknowledged] = []
    damages: set[Damage] = set()
    with tempfile.TemporaryDirectory(dir=MEMORY) as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_files, "_SEGMENT_BYTES", 700)  # five ticks
        directory = Path(name) / "spool"
        for count, stored, faults in lives:
            span = range(len(taken) + 1, len(taken) + 1 + count)
            directory, more, found, stream = await killed(market, directory, symbol, span, stored)
            taken += more
            damages |= found
            for fault, seed in faults:
                damage(directory, stream, fault, random.Random(seed).randrange)
        async with TickWriter(market, spool=directory) as last:
            await last.write(tick(len(taken) + 1, symbol))
        damages |= set(last.damages)
        in_table = await prices(market, symbol)
        assert in_table[-1] == len(taken) + 1
        assert set(names(directory)) <= {"live.damaged"}
        assert last.stats.damaged == len(last.damages)
    assert len(in_table) == len(set(in_table))
    assert set(in_table) <= {*(one.price for one in taken), len(taken) + 1}
    lost = [one for one in taken if one.price not in in_table]
    assert [one for one in lost if not is_named(one, damages)] == []


async def test_names_and_times_allowed_once_are_stored(market: Database, proxy: Proxy, tmp_path: Path) -> None:
    """The next writer lacks the permissions under which the ticks were accepted."""
    old, late = dt.datetime(1975, 1, 2, tzinfo=dt.UTC), dt.datetime(2999, 1, 1, tzinfo=dt.UTC)
    with any_time(), any_text():
        odd = [
            TickFactory.build(symbol="E\u200b", source=" x", price=Decimal(1), time=AT),
            TickFactory.build(symbol="E\u200b", source=" x", price=Decimal(2), time=late),
            TickFactory.build(symbol="E\u200b", source=" x", price=Decimal(3), time=old),
        ]
    async with Database(proxy.url) as away:
        await proxy.stop()
        writer = TickWriter(away, spool=tmp_path, durability=Durability.SPOOLED)
        await writer.start()
        for one in odd[:2]:
            await writer.write(one)
        await writer.abandon()
    async with TickWriter(market, spool=tmp_path, durability=Durability.SPOOLED) as writer:
        await writer.write(odd[2])
        await writer.write(tick(9, "E"))
    assert (writer.stats.inserted, writer.stats.ahead, writer.damages) == (4, 1, ())
    assert (await prices(market, "E\u200b"), await prices(market, "E")) == ([3, 1, 2], [9])
    assert names(tmp_path) == []


async def test_tick_ahead_is_stored_named_and_counted(market: Database, caplog: pytest.LogCaptureFixture) -> None:
    reports: list[IngestReport] = []
    hour = dt.timedelta(hours=1)
    async with market.reader() as reader:
        now: dt.datetime = await reader.connection.scalar(sa.text("SELECT now()"))
    async with TickWriter(market, on_group=reports.append) as writer:
        for symbol, lead in [("F", -hour), ("F", 9 * hour), ("G", -hour), ("F", 9 * hour), ("F", hour), ("F", -hour)]:
            await writer.write(TickFactory.build(symbol=symbol, source="x", time=now + lead))
            await writer.flush()
    assert (writer.stats.inserted, writer.stats.ahead) == (6, 3)
    assert [[(one.symbol, one.source, one.last) for one in report.leads] for report in reports] == [
        [], [("F", "x", now + 9 * hour)], [], [("F", "x", now + 9 * hour)], [("F", "x", now + hour)], []
    ]  # fmt: skip
    assert 8 * hour < reports[1].leads[0].by <= 9 * hour
    named = [record.getMessage() for record in caplog.records if "ahead of the server's clock" in record.getMessage()]
    assert len(named) == 2  # the second of the same minute is counted only
    assert f"F of feed 'x' at {(now + 9 * hour).isoformat()}, 8:59:" in named[0]
    total = sum(reports[1:], reports[0])
    assert (total.ahead, [one.last for one in total.leads]) == (3, [now + 9 * hour])


@pytest.mark.parametrize("max_ahead", [None, dt.timedelta(days=1)])
async def test_ticks_within_the_writers_bound_are_not_named(
    market: Database, caplog: pytest.LogCaptureFixture, max_ahead: dt.timedelta | None
) -> None:
    async with TickWriter(market, max_ahead=max_ahead) as writer:
        await writer.write(TickFactory.build(time=dt.datetime.now(dt.UTC) + dt.timedelta(hours=9)))
    assert (writer.stats.ahead, caplog.text) == (1, "")
