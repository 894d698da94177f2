"""A live feed: groups, bounds, a database that goes away, killed processes."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import sqlalchemy as sa

from qts_data.database import migrations
from qts_data.database.engine import DatabaseConfig, parse_url
from qts_data.embedded import EmbeddedServer
from qts_data.errors import ConfigurationError, DatabaseError, DatabaseUnavailable, InvalidRecord, SpoolRefused
from qts_data.importers.lean_trade import read_ticks
from qts_data.repositories import Database, IngestReport
from qts_data.writers import AtBound, Durability, TickQueueFull, TickWriter, load_in_parts
from qts_data.writers.spool.repair import set_aside
from tests.fixtures.effort import amount
from tests.fixtures.factories import TickFactory
from tests.fixtures.fix_lean import WHOLE_DAY
from tests.fixtures.market import DAY
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sqlalchemy.engine import URL

    from qts_data.contracts import TickData
    from tests.fixtures.fix_proxy import Proxy

START = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
FOR_EVER = (dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, tzinfo=dt.UTC))


@pytest_asyncio.fixture
async def market(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


def at(second: float, price: int, **values: object) -> TickData:
    return TickFactory.build(
        time=START + dt.timedelta(seconds=second), price=Decimal(price), volume=Decimal(1), **values
    )


async def prices(database: Database, symbol: str = "005930") -> list[int]:
    async with database.reader() as reader:
        return [int(tick.price) for tick in await reader.ticks.ticks(symbol, *FOR_EVER)]


async def test_ticks_are_committed_in_groups_and_close_flushes(market: Database) -> None:
    """Groups keep the order of the calls. `close` commits the last group."""
    reports: list[IngestReport] = []
    async with TickWriter(market, group_size=10, group_seconds=60, on_group=reports.append) as writer:
        for number in range(25):
            await writer.write(at(number // 10, number))
        await asyncio.sleep(0)
    assert await prices(market) == list(range(25))
    assert [report.received for report in reports] == [10, 10, 5]
    stats = writer.stats
    assert (stats.accepted, stats.committed, stats.inserted, stats.depth, stats.groups) == (25, 25, 25, 0, 3)
    assert (stats.resent, stats.found, stats.lag_seconds) == (0, 0, 0)
    assert stats.p99_lag_seconds >= stats.p50_lag_seconds > 0
    with pytest.raises(ConfigurationError, match="not open"):
        await writer.write(at(0, 0))


async def test_a_tick_does_not_wait_longer_than_its_group(market: Database) -> None:
    async with TickWriter(market, group_size=1_000, group_seconds=0.01) as writer:
        await writer.write(at(0, 1))
        async with asyncio.timeout(120):
            while not await prices(market):  # noqa: ASYNC110 - the database has no event
                await asyncio.sleep(0.01)


async def test_flush_and_the_committed_level_wait_for_the_database(market: Database) -> None:
    async with TickWriter(market, group_seconds=60) as writer:
        await writer.write(at(0, 1))
        await writer.flush()
        assert await prices(market) == [1]
    async with TickWriter(market, durability=Durability.COMMITTED, group_seconds=0.001) as writer:
        await asyncio.gather(*(writer.write(at(1, price)) for price in range(20)))
        assert len(await prices(market)) == 21
    assert writer.stats.groups < 20


async def test_restarted_writer_goes_on_from_the_stored_ticks(market: Database) -> None:
    for run in range(3):
        async with TickWriter(market, group_size=2) as writer:
            for number in range(5):
                await writer.write(at(0, 5 * run + number))
    assert await prices(market) == list(range(15))
    # With the feed's own numbers, a tick that comes again is a duplicate.
    async with TickWriter(market) as writer:
        for seq in (7, 8, 7, 9):
            await writer.write(at(5, seq, seq=seq, symbol="A"))
            await writer.flush()
    assert await prices(market, "A") == [7, 8, 9]
    assert (writer.stats.inserted, writer.stats.duplicate) == (3, 1)


async def test_tick_later_than_the_writer_remembers_is_stored(
    market: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer has evicted the instant and asks the table for its next number."""
    monkeypatch.setattr("qts_data.repositories.market.ticks.copy.column_batch._REMEMBERED_INSTANTS", 50)
    async with TickWriter(market, group_size=20) as writer:
        for number in range(300):
            await writer.write(at(number, number))
        await writer.write(at(3, 1_000))
        await writer.write(at(3, 1_001))
    assert await prices(market) == [0, 1, 2, 3, 1_000, 1_001, *range(4, 300)]


async def test_tick_that_cannot_be_stored_spares_earlier_groups(market: Database) -> None:
    """A tick contradicts a stored one. The groups before it are committed."""
    async with TickWriter(market) as writer:
        await writer.write(at(4, 4, seq=7))
    writer = TickWriter(market, group_size=2)
    await writer.start()
    for number in range(4):
        await writer.write(at(number, number))
    for price in (5, 6):
        await writer.write(at(4, price, seq=7))
    with pytest.raises(InvalidRecord, match="already holds another tick"):
        await writer.close()
    assert await prices(market) == [0, 1, 2, 3, 4]
    assert (writer.stats.committed, writer.stats.depth) == (4, 2)


async def test_value_that_is_not_a_tick_spares_later_ticks(market: Database) -> None:
    """`write` refuses a value that is not a `TickData`. Later ticks are stored."""
    async with TickWriter(market, group_size=2) as writer:
        with pytest.raises(InvalidRecord, match="tick: is str; give TickData"):
            await writer.write("70000")  # type: ignore[arg-type]
        for number in range(3):
            await writer.write(at(number, number))
    assert await prices(market) == [0, 1, 2]
    assert writer.stats.accepted == 3


async def test_failing_listener_is_logged_and_spares_later_groups(
    market: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener raises for each group. All groups are committed."""

    def fails(report: IngestReport) -> None:
        raise RuntimeError(f"cannot digest {report.received}")

    async with TickWriter(market, group_size=2, on_group=fails) as writer:
        for number in range(4):
            await writer.write(at(number, number))
    assert await prices(market) == [0, 1, 2, 3]
    assert caplog.text.count("RuntimeError: cannot digest 2") == 2


async def test_write_cancelled_after_acceptance_keeps_the_tick(proxy: Proxy, market: Database) -> None:
    """A cancelled call keeps the tick that was accepted. A cancelled wait for room accepts none."""
    async with Database(proxy.url) as away:
        await proxy.stop()
        writer = TickWriter(away, durability=Durability.COMMITTED, bound=1)
        await writer.start()
        taken = asyncio.create_task(writer.write(at(0, 1)))
        await eventually(lambda: writer.stats.accepted == 1)
        waits_for_room = asyncio.create_task(writer.write(at(0, 2)))
        await asyncio.sleep(0)
        for task in (taken, waits_for_room):
            task.cancel()
        await asyncio.wait([taken, waits_for_room])
        assert (taken.cancelled(), waits_for_room.cancelled(), writer.stats.accepted) == (True, True, 1)
        await proxy.start_again()
        await writer.close()
    assert await prices(market) == [1]


async def test_table_locked_beyond_the_timeout_loses_no_tick(market: Database, database_url: URL) -> None:
    """The writer sends its group again after the statement timeout."""
    config = DatabaseConfig(statement_timeout_seconds=1.0, lock_timeout_seconds=0)
    async with Database(database_url, config) as hasty, TickWriter(hasty, group_seconds=0.001) as writer:
        async with market.transaction() as locker:
            await locker.connection.execute(sa.text("LOCK TABLE tick_data IN ACCESS EXCLUSIVE MODE"))
            await writer.write(at(0, 1))
            await eventually(lambda: writer.stats.resent == 1)
            await writer.write(at(0, 2))
        await writer.flush()
    assert await prices(market) == [1, 2]


async def test_a_server_that_takes_no_writes_for_a_while_costs_nothing(market: Database, database_url: URL) -> None:
    engine = sa.create_engine(database_url, isolation_level="AUTOCOMMIT")

    def read_only(*, on: bool) -> None:
        # It holds for sessions that begin later, so the writer must begin one.
        setting = "SET default_transaction_read_only = on" if on else "RESET default_transaction_read_only"
        with engine.connect() as connection:
            connection.execute(sa.text("SET default_transaction_read_only = off"))
            connection.execute(sa.text(f"ALTER DATABASE {database_url.database} {setting}"))

    await asyncio.to_thread(read_only, on=True)
    async with Database(database_url) as standby, TickWriter(standby, group_seconds=0.001) as writer:
        await writer.write(at(0, 1))
        await eventually(lambda: writer.stats.resent == 1)
        await asyncio.to_thread(read_only, on=False)
        await writer.write(at(0, 2))
        await writer.flush()
    await asyncio.to_thread(engine.dispose)
    assert await prices(market) == [1, 2]


@pytest.mark.parametrize("sqlstate", ["53100", "53200", "53400", "58030"])
async def test_a_server_in_need_is_asked_again(
    market: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sqlstate: str
) -> None:
    async def fails(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise DatabaseError("could not extend file", sqlstate=sqlstate)

    monkeypatch.setattr("qts_data.repositories.market.ticks.repository.insert_new", fails)
    monkeypatch.setattr("qts_data.repositories.market.ticks.repository.append", fails)
    async with TickWriter(market) as writer:
        await writer.write(at(0, 1))
    assert await prices(market) == [1]
    assert writer.stats.resent == 1
    assert "1 ticks of live wait: could not extend file" in caplog.text


async def test_lasting_error_ends_the_writer(market: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise DatabaseError("permission denied", sqlstate="42501")

    monkeypatch.setattr("qts_data.repositories.market.ticks.repository.append", fails)
    writer = TickWriter(market)
    await writer.start()
    await writer.write(at(0, 1))
    with pytest.raises(DatabaseError, match="permission denied"):
        await writer.close()
    assert writer.stats.depth == 1


async def test_queue_at_its_bound_waits_or_raises(proxy: Proxy, market: Database) -> None:
    """The server is away. No accepted tick is dropped."""
    async with Database(proxy.url) as away:
        await proxy.stop()
        writer = TickWriter(away, bound=10, at_bound=AtBound.RAISE, group_size=5)
        await writer.start()
        for number in range(10):
            await writer.write(at(number, number))
        with pytest.raises(TickQueueFull, match="10 ticks wait"):
            await writer.write(at(10, 10))
        assert (writer.stats.depth, writer.stats.accepted) == (10, 10)
        patient = TickWriter(away, name="patient", bound=3, group_size=5)
        await patient.start()
        for number in range(3):
            await patient.write(at(number, 100 + number, symbol="P"))
        waiting = asyncio.create_task(patient.write(at(3, 103, symbol="P")))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await proxy.start_again()
        await waiting
        await writer.close()
        await patient.close()
    assert await prices(market) == list(range(10))
    assert await prices(market, "P") == [100, 101, 102, 103]
    assert writer.stats.resent >= 1


@pytest.mark.parametrize(("when", "found"), [("before", 0), ("after", 1)])
async def test_a_commit_of_unknown_outcome_is_neither_lost_nor_doubled(
    proxy: Proxy, market: Database, when: str, found: int
) -> None:
    async with Database(proxy.url) as database, TickWriter(database, group_size=4, group_seconds=60) as writer:
        await writer.write(at(0, 0))
        await writer.flush()
        proxy.cut_at(b"COMMIT", when=when)  # type: ignore[arg-type]
        for number in range(1, 9):
            await writer.write(at(0, number))
        await writer.flush()
    assert await prices(market) == list(range(9))
    assert (writer.stats.found, writer.stats.resent, writer.stats.committed) == (found, 1, 9)
    async with market.reader() as reader:
        seqs = [tick.seq for tick in await reader.ticks.ticks("005930", *FOR_EVER)]
    assert seqs == list(range(9))


async def test_connection_cut_at_any_moment_keeps_ticks_exact(proxy: Proxy, market: Database) -> None:
    """No tick is lost or stored twice."""
    chance = random.Random(3)
    async with (
        Database(proxy.url, DatabaseConfig(pool_min=1)) as database,
        TickWriter(database, group_size=7, group_seconds=0) as writer,
    ):
        for number in range(200):
            await writer.write(at(number // 40, number))
            if chance.random() < 0.05:
                proxy.cut()
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0, 0.004))
    assert await prices(market) == list(range(200))


async def test_another_tick_under_a_stored_key_stops_the_writer_loudly(market: Database) -> None:
    writer = TickWriter(market, group_seconds=0)
    await writer.start()
    await writer.write(at(0, 1, seq=1))
    await writer.flush()
    await writer.write(at(0, 2, seq=1))
    with pytest.raises(InvalidRecord, match="already holds another tick"):
        await writer.flush()
    with pytest.raises(InvalidRecord):
        await writer.write(at(1, 1))
    with pytest.raises(InvalidRecord):
        await writer.close()
    assert writer.stats.depth == 1
    assert await prices(market) == [1]


async def test_settings_that_cannot_be_are_refused(market: Database, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        TickWriter(market, bound=0)
    with pytest.raises(ConfigurationError, match="give spool="):
        TickWriter(market, durability=Durability.SPOOLED)
    with pytest.raises(ConfigurationError, match="a spool's name"):
        TickWriter(market, name="../x", spool=tmp_path)


def cut_short(spool: Path) -> None:
    """The power fails while a record is written."""
    file = only_file(spool)
    file.write_bytes(file.read_bytes() + b"\xfe\xfftk\x02\x10")


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def only_file(spool: Path) -> Path:
    (file,) = spool.glob("*.spool")
    return file


async def test_spooled_ticks_survive_the_writer(market: Database, proxy: Proxy, tmp_path: Path) -> None:
    async with Database(proxy.url) as away:
        await proxy.stop()
        writer = TickWriter(away, spool=tmp_path, durability=Durability.SPOOLED, group_size=3)
        await writer.start()
        for number in range(10):
            await writer.write(at(0, number))
        await writer.abandon()
    cut_short(tmp_path)
    async with TickWriter(market, spool=tmp_path, group_size=4) as writer:
        assert writer.stats.accepted == 10
        await writer.write(at(0, 10))
    assert await prices(market) == list(range(11))
    assert {(damage.record, damage.first) for damage in writer.damages} == {(11, 10)}
    assert writer.stats.damaged == len(writer.damages)
    assert names(tmp_path) == ["live.damaged"]
    reasons = (tmp_path / "live.damaged" / "reasons.txt").read_text()
    assert reasons.splitlines() == [str(damage) for damage in writer.damages]


async def test_spooled_ticks_that_were_committed_are_not_sent_again(market: Database, tmp_path: Path) -> None:
    writer = TickWriter(market, spool=tmp_path, durability=Durability.SPOOLED, group_size=3, group_seconds=60)
    await writer.start()
    for number in range(4):
        await writer.write(at(0, number))
    await writer.flush()
    await writer.write(at(0, 4))
    await writer.abandon()
    # The file still holds all five. Groups of another size meet the four in the middle.
    async with TickWriter(market, spool=tmp_path, group_size=50) as again:
        await again.write(at(0, 5))
    assert await prices(market) == list(range(6))
    assert again.stats.inserted == 2


@pytest.mark.parametrize("durability", [Durability.SPOOLED, Durability.QUEUED])
async def test_disk_that_refuses_the_spool_keeps_ticks_exact(
    market: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    durability: Durability,
) -> None:
    """The disk is full while ticks are spooled. No accepted tick is lost or stored twice."""
    real = os.pwrite

    def full(handle: int, data: bytes, offset: int) -> int:
        if any(data):
            raise OSError(28, "No space left on device")
        return real(handle, data, offset)

    async with TickWriter(market, spool=tmp_path, durability=durability, group_seconds=0.001) as writer:
        await writer.write(at(0, 1))
        assert writer._spool is not None  # noqa: SLF001
        await writer._spool.flush()  # noqa: SLF001 - QUEUED does not wait for the disk
        monkeypatch.setattr(os, "pwrite", full)
        ends = {}
        for price in (2, 3, 4):
            (ends[price],) = await asyncio.gather(writer.write(at(0, price)), return_exceptions=True)
            await eventually(lambda: "the disk refused" in caplog.text)
        monkeypatch.undo()
    # A QUEUED tick is accepted before it is on disk, and stored nevertheless. The next write raises the error.
    taken = [price for price, end in ends.items() if end is None]
    assert taken == ([] if durability is Durability.SPOOLED else [2, 4])
    assert all("No space left" in str(end) for end in ends.values() if end is not None)
    assert {type(end) for end in ends.values()} <= {type(None), SpoolRefused}
    assert writer.stats.accepted == 1 + len(taken)
    assert await prices(market) == [1, *taken]
    assert names(tmp_path) == []


@pytest.mark.parametrize("durability", [Durability.QUEUED, Durability.COMMITTED])
async def test_ticks_spooled_by_the_way_survive_up_to_their_end(
    market: Database, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    monkeypatch.setattr("qts_data.writers.spool.files._SEGMENT_BYTES", 900)
    async with Database(proxy.url) as away:
        await proxy.stop()
        writer = TickWriter(away, spool=tmp_path, durability=durability)
        await writer.start()
        writes = [asyncio.create_task(writer.write(at(0, number))) for number in range(25)]
        await eventually(lambda: len(list(tmp_path.glob("*.spool"))) > 2)
        # As after a crash: the end of the last file was in memory only.
        copy = shutil.copytree(tmp_path, tmp_path / "crashed")
        await writer.abandon()
        await asyncio.gather(*writes, return_exceptions=True)
    async with TickWriter(market, spool=copy) as writer:
        accepted = writer.stats.accepted
    assert 10 <= accepted <= 25
    assert await prices(market) == list(range(accepted))


@pytest.mark.parametrize("durability", list(Durability))
async def test_crash_after_a_commit_keeps_later_ticks_apart(
    market: Database, tmp_path: Path, durability: Durability
) -> None:
    """The spool still holds committed ticks after the crash. Later ticks are not mistaken for them."""
    writer = TickWriter(market, spool=tmp_path / "spool", durability=durability, group_seconds=0.001)
    await writer.start()
    for number in range(5):
        await writer.write(at(0, number))
    await writer.flush()
    crashed = shutil.copytree(tmp_path / "spool", tmp_path / "crashed")
    await writer.abandon()
    async with TickWriter(market, spool=crashed) as again:
        for number in range(5, 8):
            await again.write(at(0, number))
    assert await prices(market) == list(range(8))


async def test_a_spool_cut_short_gives_its_numbers_to_no_tick(market: Database, tmp_path: Path) -> None:
    """The table proves the stored ticks behind the cut. The next writer counts in a stream of its own."""
    writer = TickWriter(market, spool=tmp_path)
    await writer.start()
    for number in range(5):
        await writer.write(at(0, number))
    await writer.flush()
    await writer.abandon()
    file = only_file(tmp_path)
    file.write_bytes(file.read_bytes()[:250])
    async with TickWriter(market, spool=tmp_path) as again:
        await again.write(at(0, 5))
    assert await prices(market) == list(range(6))
    assert (again.stats.inserted, again.stats.committed - again.stats.known) == (1, 1)
    assert {damage.file for damage in again.damages} == {str(file)}


async def test_a_tick_that_stops_a_spool_is_named_and_set_aside(market: Database, tmp_path: Path) -> None:
    async with TickWriter(market) as before:
        await before.write(at(0, 1, seq=1))
    for _ in range(2):  # a restart does not help
        writer = TickWriter(market, spool=tmp_path, durability=Durability.SPOOLED, group_seconds=60)
        await writer.start()
        if writer.stats.accepted == 0:
            file = only_file(tmp_path)
            await writer.write(at(0, 2, seq=1))
            await writer.write(at(0, 3, seq=3))
        with pytest.raises(InvalidRecord, match=rf"seq 1: .*the tick is in the spool, at or behind {file}:1"):
            await writer.close()
    assert set_aside(file, 1, reason="another is stored").price == 2
    async with TickWriter(market, spool=tmp_path) as writer:
        pass
    assert (writer.stats.inserted, writer.stats.duplicate) == (1, 0)
    assert await prices(market) == [1, 3]
    assert names(tmp_path) == ["live.damaged"]


async def test_counters_of_a_writer_begin_at_its_start(market: Database, proxy: Proxy, tmp_path: Path) -> None:
    """A tick that an earlier writer committed, and whose file is still there, is known."""
    async with Database(proxy.url) as away:
        writer = TickWriter(away, spool=tmp_path, durability=Durability.SPOOLED, group_size=1, group_seconds=0.001)
        await writer.start()
        await writer.write(at(0, 1))
        await eventually(lambda: writer.stats.committed == 1)
        await proxy.stop()
        for price in (2, 3):
            await writer.write(at(0, price))
        await writer.abandon()
    async with TickWriter(market, spool=tmp_path, group_seconds=60) as again:
        await again.write(at(0, 4))
        await again.flush()
        stats = again.stats
    assert stats.committed == stats.inserted + stats.duplicate + stats.known == stats.accepted == 4
    assert (stats.inserted, stats.known, stats.position, stats.depth) == (3, 1, 4, 0)
    assert await prices(market) == [1, 2, 3, 4]


async def test_a_spool_of_another_table_is_refused(market: Database, proxy: Proxy, tmp_path: Path) -> None:
    async with Database(proxy.url) as away:
        await proxy.stop()
        writer = TickWriter(away, spool=tmp_path, durability=Durability.SPOOLED)
        await writer.start()
        await writer.write(at(0, 1))
        await writer.abandon()
    with pytest.raises(ConfigurationError, match="belongs to a writer into tick_data, not into tick_history"):
        await TickWriter(market, table="tick_history", spool=tmp_path).start()
    async with TickWriter(market, spool=tmp_path):
        pass
    assert await prices(market) == [1]


_FEED = """
import asyncio, itertools, sys, datetime as dt
from pathlib import Path
from qts_data.database.engine import parse_url
from qts_data.importers.lean_trade import read_ticks
from qts_data.repositories import Database
from qts_data.writers import Durability, TickWriter
async def main():
    url, path, symbol, spool, count = sys.argv[1:]
    async with Database(parse_url(url)) as database:
        writer = TickWriter(
            database, spool=Path(spool), durability=Durability.SPOOLED, group_size=200, group_seconds=0.002
        )
        await writer.start()
        ticks = read_ticks(Path(path), symbol, dt.date(2013, 10, 7))
        for tick in itertools.islice(ticks, writer.stats.position, int(count)):
            await writer.write(tick)
            print(writer.stats.position, flush=True)
        await writer.close()
asyncio.run(main())
"""


async def test_a_feed_that_is_killed_again_and_again_ends_exact(
    market: Database, database_url: URL, tmp_path: Path, long_feed: tuple[Path, int]
) -> None:
    chance = random.Random(11)
    (path, count), symbol = long_feed, "SPY"
    fed = count if WHOLE_DAY else 2_000
    wanted = list(itertools.islice(read_ticks(path, symbol, DAY), fed))
    url = database_url.render_as_string(hide_password=False)
    restarts = 0
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _FEED, url, str(path), symbol, str(tmp_path), str(fed),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        stop_at = chance.randrange(fed // 4, fed // 2)
        for _ in range(stop_at):
            if not await process.stdout.readline():
                break
        else:
            process.kill()
        _, errors = await process.communicate()
        assert process.returncode in {0, -signal.SIGKILL}, errors
        restarts += 1
        if process.returncode == 0:
            break
    assert restarts > 2
    async with market.reader() as reader:
        found = await reader.ticks.ticks(symbol, *FOR_EVER)
    assert [(tick.time, tick.price, tick.volume) for tick in found] == [
        (tick.time, tick.price, tick.volume) for tick in wanted
    ]


@pytest.mark.soak
async def test_server_restart_during_a_feed_loses_no_tick(tmp_path: Path) -> None:
    """The server restarts during a feed, and during a load."""
    server = EmbeddedServer(tmp_path / "data", settings={"fsync": "off"})
    fed = amount(250, 400)
    try:
        server.start()
        server.ensure_database("qts")
        running = server.info()
        assert running is not None
        url = parse_url(running.url("qts"))
        migrations.upgrade(url)
        async with Database(url) as database:
            async with TickWriter(database, group_size=10, group_seconds=0.001) as writer:
                for number in range(fed):
                    await writer.write(at(number // 50, number))
                    if number % 150 == 100:
                        await asyncio.to_thread(server.stop)
                    if number % 150 == 140:
                        await asyncio.to_thread(server.start)
                    await asyncio.sleep(0.001)
            assert await prices(database) == list(range(fed))
            assert writer.stats.resent >= 1

            def source(*, falls: bool) -> Iterator[TickData]:
                for number in range(500):
                    if falls and number == 250:
                        server.stop()
                    yield at(number // 50, number, symbol="LOAD")

            with pytest.raises(DatabaseUnavailable):
                await load_in_parts(database, source(falls=True), stream="day", part_size=70)
            await asyncio.to_thread(server.start)
            report = await load_in_parts(database, source(falls=False), stream="day", part_size=70)
            assert 0 < report.inserted < report.received == 500
            assert await prices(database, "LOAD") == list(range(500))
    finally:
        server.delete()
