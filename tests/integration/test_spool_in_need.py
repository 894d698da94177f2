"""Spools with a removed lock, a full disk, or odd entries in their directory."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import json
import os
import random
import shutil
import zlib
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from qts_data.errors import NotFound, SpoolInUse, SpoolRefused
from qts_data.repositories import Database
from qts_data.writers import Durability, TickWriter
from qts_data.writers.spool import files as spool_files
from qts_data.writers.spool import reading
from qts_data.writers.spool.format import Kind, record, seed_of
from qts_data.writers.spool.repair import set_aside
from qts_data.writers.spool.spool import Spool
from tests.fixtures.factories import TickFactory
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy.engine import URL

    from qts_data.contracts import TickData
    from tests.fixtures.fix_proxy import Proxy

AT = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
FOR_EVER = (dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, tzinfo=dt.UTC))


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_files, "_SEGMENT_BYTES", 700)  # five ticks


@pytest_asyncio.fixture
async def market(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


def tick(number: int) -> TickData:
    return TickFactory.build(time=AT, symbol="S", price=Decimal(number + 1), volume=Decimal(1))


async def stored(database: Database) -> list[int]:
    async with database.reader() as reader:
        return [int(one.price) - 1 for one in await reader.ticks.ticks("S", *FOR_EVER)]


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.spool"))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def filled(directory: Path, count: int) -> Spool:
    spool = Spool(directory, "live")
    await spool.open("live/0f")
    await asyncio.gather(*(spool.append(tick(number)) for number in range(count)))
    return spool


async def test_source_goes_on_from_position_after_any_end(market: Database, proxy: Proxy, tmp_path: Path) -> None:
    """However the writers end, the position is always the number of ticks that need not be sent again."""
    pick = random.Random(7)
    taken = 0
    directory = tmp_path / "0"
    async with Database(proxy.url) as away:
        await proxy.stop()
        for life in range(8):
            is_away = life % 3 == 0
            writer = TickWriter(away if is_away else market, spool=directory, durability=Durability.SPOOLED)
            await writer.start()
            assert writer.stats.position == taken
            for step in range(pick.randrange(9)):
                assert writer.stats.position == taken
                await writer.write(tick(writer.stats.position))
                taken += 1
                if step % 4 == 3 and not is_away:
                    await writer.flush()
            if life % 2 and not is_away:
                await writer.flush()
            assert writer.stats.position == taken
            killed = tmp_path / str(life + 1)
            assert writer._spool is not None  # noqa: SLF001
            # Copied in the thread that changes the files: the copy is of one moment, as after a kill.
            await writer._spool._in_thread(lambda: shutil.copytree(directory, killed))  # noqa: SLF001, B023
            await writer.abandon()
            directory = killed if pick.randrange(2) else directory
    async with TickWriter(market, spool=directory) as last:
        assert last.stats.position == taken
        await last.flush()
        assert last.stats.position == taken
    assert await stored(market) == list(range(taken))


async def test_position_learns_of_stored_ticks_lost_from_files(market: Database, tmp_path: Path) -> None:
    writer = TickWriter(market, spool=tmp_path, durability=Durability.SPOOLED)
    await writer.start()
    for number in range(3):
        await writer.write(tick(number))
    await writer.flush()
    await writer.abandon()
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:250])
    async with TickWriter(market, spool=tmp_path, durability=Durability.SPOOLED) as again:
        await again.flush()
        assert again.stats.position == 3
        await again.write(tick(again.stats.position))
        assert again.stats.position == 4
    assert await stored(market) == [0, 1, 2, 3]


async def test_removed_lock_lets_no_second_writer_in(tmp_path: Path) -> None:
    spool = await filled(tmp_path, 3)
    lock = tmp_path / "live.lock"
    for number in range(3, 12):  # over several files
        lock.unlink()
        with pytest.raises(SpoolInUse, match=r"a writer holds .*\.spool, although the lock .* was removed"):
            await Spool(tmp_path, "live").open("live/1f")
        with pytest.raises(SpoolInUse):
            set_aside(files(tmp_path)[0], 1, reason="")
        await spool.append(tick(number))
        assert json.loads(lock.read_text())["pid"] == os.getpid()  # made anew
    await spool.close(empty=False)
    assert not lock.exists()
    (left,) = await Spool(tmp_path, "live").open("live/1f")
    assert sorted(left.ticks) == list(range(12))


async def test_removed_files_end_the_first_writer(tmp_path: Path) -> None:
    spool = await filled(tmp_path, 3)
    for name in names(tmp_path):
        (tmp_path / name).unlink()
    second = Spool(tmp_path, "live")
    assert await second.open("live/1f") == []
    with pytest.raises(SpoolRefused, match="was removed or replaced while its writer held it"):
        await spool.append(tick(3))
    with pytest.raises(SpoolRefused):
        spool.append(tick(3))
    await spool.close(empty=False)
    assert (tmp_path / "live.lock").exists()  # that of the second one
    await second.append(tick(3))
    await second.close(empty=False)


async def test_full_disk_is_drained_by_a_start(
    market: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has room again only after all files of the spool except the last one are removed."""
    await (await filled(tmp_path, 20)).close(empty=False)
    real, fsync, most = os.pwrite, os.fsync, len(files(tmp_path)) - 1

    def is_full() -> bool:
        return len(files(tmp_path)) > most

    def pwrite(handle: int, data: bytes, offset: int) -> int:
        if is_full():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data, offset)

    def full_fsync(handle: int) -> None:
        if is_full():
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "fsync", full_fsync)
    async with TickWriter(market, spool=tmp_path, durability=Durability.SPOOLED) as writer:
        assert writer.stats.position == 20
        await writer.flush()
        await eventually(lambda: files(tmp_path) == [])
        await writer.write(tick(20))
    assert await stored(market) == list(range(21))
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["live.stream", "live.new", "live.aa.000000.00000000000000000000.spool"])
@pytest.mark.parametrize("kind", ["pipe", "link", "huge"])
async def test_odd_thing_is_moved_aside_unread(market: Database, tmp_path: Path, name: str, kind: str) -> None:
    directory, victim = tmp_path / "spool", tmp_path / "victim"
    await (await filled(directory, 7)).close(empty=False)
    victim.write_bytes(b"of another program")
    path = directory / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(victim)
    else:
        path.touch()
        os.truncate(path, reading.MOST_LINES_BYTES + 1)
    async with asyncio.timeout(30), TickWriter(market, spool=directory) as writer:
        await writer.flush()
    assert victim.read_bytes() == b"of another program"
    assert await stored(market) == list(range(7))
    moved = [one.file for one in writer.damages]
    assert moved == ([] if name == "live.new" else [str(path)])
    assert names(directory) == (["live.damaged"] if moved else [])
    assert not moved or name in names(directory / "live.damaged")


@pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
async def test_odd_lock_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"of another program")
    lock = tmp_path / "live.lock"
    if kind == "link":
        lock.symlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.hardlink_to(victim)
    with pytest.raises(SpoolRefused, match=r"live\.lock"):
        await Spool(tmp_path, "live").open("live/0f")
    assert victim.read_bytes() == b"of another program"
    assert "live.lock" in names(tmp_path)


STREAMS = [[None] * 3, ["live/0f", True, 0], ["live/0f", -1, 0], ["live/0f", 1, 1 << 70], ["live/\0", 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("stream", STREAMS)
async def test_list_of_wrong_types_is_damage(tmp_path: Path, stream: list[object]) -> None:
    await (await filled(tmp_path, 7)).close(empty=False)
    body = json.dumps({"format": 3, "table": "tick_data", "streams": [stream]})
    (tmp_path / "live.stream").write_text(f"{body}\n{zlib.crc32(body.encode())}")
    (left,) = await Spool(tmp_path, "live").open("live/1f")
    assert sorted(left.ticks) == list(range(7))
    assert "is damaged, or not a file of qts-data" in (tmp_path / "live.damaged" / "reasons.txt").read_text()


@pytest.mark.parametrize("reasons", [b"\xe9\xff of a person\n", None])
async def test_markers_and_reasons_do_not_stop_a_recovery(
    market: Database, tmp_path: Path, reasons: bytes | None
) -> None:
    await (await filled(tmp_path, 4)).close(empty=False)
    seed = seed_of("live/0f")
    # A seal without a length, a tick with a huge number, and half a megabyte of record starts.
    odd = record(Kind.SEAL, 4, b"x", seed) + record(Kind.TICK, 1 << 63, b"x", seed) + b"\xfe\xfftk" * 131_072
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes().rstrip(b"\0") + odd)
    (tmp_path / "live.damaged").mkdir()
    noted = tmp_path / "live.damaged" / "reasons.txt"
    if reasons is None:
        os.mkfifo(noted)
        noted = noted.with_name("reasons.1.txt")
    else:
        noted.write_bytes(reasons)
    async with TickWriter(market, spool=tmp_path) as writer:
        pass
    assert await stored(market) == list(range(4))
    assert 0 < len(writer.damages) < 10
    assert noted.read_bytes().startswith(reasons or b"/")
    with pytest.raises(NotFound, match="not a regular file"):
        (tmp_path / "live.0a.000000.00000000000000000000.spool").symlink_to(noted)
        set_aside(tmp_path / "live.0a.000000.00000000000000000000.spool", 1, reason="")
