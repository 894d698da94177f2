"""Files of ticks that are not yet stored: after a crash, on a full disk, and damaged."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import json
import os
import random
import subprocess
import sys
import tempfile
import zlib
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qts_data.errors import ConfigurationError, NotFound, QtsDataError, SpoolInUse, SpoolRefused
from qts_data.writers.spool import files as spool_files
from qts_data.writers.spool import format as spool_format
from qts_data.writers.spool.repair import set_aside
from qts_data.writers.spool.spool import Spool
from tests.fixtures.factories import TickFactory
from tests.fixtures.spool_faults import FILE_FAULTS, HEAD_FAULTS, RECORD_FAULTS, damage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qts_data.contracts import TickData
    from qts_data.writers.spool.left import Left

EXAMPLES = int(os.environ.get("QTS_TEST_SPOOL_EXAMPLES", "40"))
BYTES = 700  # of a file: five ticks
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
AT = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_files, "_SEGMENT_BYTES", BYTES)


def tick(number: int) -> TickData:
    return TickFactory.build(
        time=AT, price=Decimal(number + 1), volume=Decimal(1), bid=Decimal(1) if number % 2 else None
    )


async def filled(directory: Path, count: int, stream: str = "live/0f") -> Spool:
    spool = Spool(directory, "live")
    await spool.open(stream)
    await asyncio.gather(*(spool.append(tick(number)) for number in range(count)))
    return spool


@contextlib.asynccontextmanager
async def reopened(directory: Path, stream: str = "live/1f") -> AsyncIterator[list[Left]]:
    spool = Spool(directory, "live")
    yield await spool.open(stream)
    await spool.close(empty=False)


async def found(directory: Path) -> list[int]:
    async with reopened(directory) as left:
        return [int(one.price) - 1 for stream in left for one in stream.ticks.values()]


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("live.0f.*.spool"))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_spool_closed_empty_leaves_no_file(tmp_path: Path) -> None:
    spool = await filled(tmp_path, 20)
    assert len(files(tmp_path)) > 2
    await spool.close(empty=True)
    assert names(tmp_path) == []


async def test_spool_reopened_keeps_every_field_and_order(tmp_path: Path) -> None:
    spool = await filled(tmp_path, 20)
    await spool.close(empty=False)
    async with reopened(tmp_path) as left:
        assert [(one.stream, one.position, one.end, one.missing(0)) for one in left] == [("live/0f", 0, 20, [])]
        kept = left[0].ticks
    assert [(number, one.price, one.bid) for number, one in kept.items()] == [
        (number, tick(number).price, tick(number).bid) for number in range(20)
    ]
    # Also the stream of the second writer, which took nothing, and the ticks before it.
    async with reopened(tmp_path, "live/2f") as left:
        assert [(one.stream, one.position, len(one.ticks)) for one in left] == [("live/0f", 0, 20), ("live/1f", 20, 0)]


async def test_spool_forgets_full_files_that_are_stored(tmp_path: Path) -> None:
    spool = await filled(tmp_path, 20)
    first, *rest = files(tmp_path)
    await spool.forget(4)
    assert len(files(tmp_path)) == 1 + len(rest)
    await spool.forget(20)
    assert files(tmp_path) == rest[-1:]
    await spool.close(empty=False)
    async with reopened(tmp_path) as left:
        assert left[0].missing(20) == []
        (damage,) = left[0].missing(0)  # a table without them: they are missing
    assert str(damage).startswith(f"{rest[-1]}: record 0: the files before it are missing, which held 0 to ")
    assert first.name not in names(tmp_path)


async def test_spool_held_by_a_writer_refuses_the_second(tmp_path: Path) -> None:
    spool = await filled(tmp_path, 1)
    with pytest.raises(SpoolInUse, match=rf"spool {tmp_path}/live is in use by process {os.getpid()} on .* since 20"):
        await Spool(tmp_path, "live").open("live/1f")
    other = Spool(tmp_path, "live2")  # another feed in the same directory
    await other.open("live2/1f")
    await other.close(empty=True)
    await spool.close(empty=False)
    assert await found(tmp_path) == [0]


_HOLD = """
import asyncio, sys
from pathlib import Path
from qts_data.contracts import TickData
from qts_data.writers.spool.spool import Spool
async def main():
    spool = Spool(Path(sys.argv[1]), "live")
    await spool.open("live/0f")
    from tests.unit.test_tick_spool import tick
    await asyncio.gather(*(spool.append(tick(number)) for number in range(3)))
    print("held", flush=True)
    sys.stdin.read()
asyncio.run(main())
"""


async def test_spool_of_a_killed_process_is_free_and_whole(tmp_path: Path) -> None:
    with subprocess.Popen(  # noqa: ASYNC220 - it is waited for by its first line
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SpoolInUse, match=f"in use by process {holder.pid} on"):
            await Spool(tmp_path, "live").open("live/1f")
        holder.kill()
    assert await found(tmp_path) == [0, 1, 2]


async def test_spool_start_cancelled_lets_the_lock_go(tmp_path: Path) -> None:
    opening = asyncio.create_task(Spool(tmp_path, "live").open("live/0f"))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await found(tmp_path) == []


async def test_full_disk_refuses_new_ticks_and_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = await filled(tmp_path, 3)
    real = os.pwrite

    def full(handle: int, data: bytes, offset: int) -> int:
        if any(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        with pytest.raises(SpoolRefused, match="No space left") as refused:
            await spool.append(tick(90))
        assert refused.value.errno == errno.ENOSPC
    monkeypatch.undo()
    monkeypatch.setattr(spool_files, "_SEGMENT_BYTES", BYTES)
    await asyncio.gather(*(spool.append(tick(number)) for number in range(3, 12)))
    await spool.close(empty=False)
    assert await found(tmp_path) == list(range(12))


async def test_broken_disk_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = await filled(tmp_path, 3)

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(SpoolRefused, match="Input/output"):
        await spool.append(tick(3))
    monkeypatch.undo()
    with pytest.raises(SpoolRefused, match="Input/output"):
        spool.append(tick(3))
    await spool.close(empty=False)
    assert await found(tmp_path) == [0, 1, 2]


async def test_file_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    spool = await filled(tmp_path, 1)
    (first,) = files(tmp_path)
    in_the_way = [tmp_path / f"live.0f.000001.{number:020}.spool" for number in range(1, 9)]
    for path in in_the_way:
        path.write_bytes(b"of another program")
    with pytest.raises(SpoolRefused, match="File exists"):
        await asyncio.gather(*(spool.append(tick(number)) for number in range(1, 9)))
    await spool.close(empty=False)
    assert {path.read_bytes() for path in in_the_way} == {b"of another program"}
    assert first.exists()


async def test_spool_of_another_table_is_refused(tmp_path: Path) -> None:
    await (await filled(tmp_path, 3)).close(empty=False)
    for _ in range(2):  # by the list of files, then by the files
        with pytest.raises(ConfigurationError, match="into tick_data, not into tick_history: start one for tick_data"):
            await Spool(tmp_path, "live", table="tick_history").open("live/1f")
        (tmp_path / "live.stream").unlink(missing_ok=True)
    assert await found(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize("head", [None, b"", b"\xff", b"[]", b"live/abc", b"[" * 60_000, b'{"format": 9}'])
async def test_head_lost_or_foreign_deletes_nothing(tmp_path: Path, head: bytes | None) -> None:
    await (await filled(tmp_path, 12)).close(empty=False)
    path = tmp_path / "live.stream"
    if head is None:
        path.unlink()
    else:
        path.write_bytes(head)
    assert await found(tmp_path) == list(range(12))
    kept = tmp_path / "live.damaged" / "live.stream"
    if head is not None and head != b"live/abc":  # a head of the first format, of a stream without files
        assert kept.read_bytes() == head


def _as_lines(count: int) -> bytes:
    """The symbol of the third tick begins with a blank, as older versions allowed."""
    rows = [
        [AT.isoformat(), " 005930" if number == 2 else "005930", str(number + 1), "1", "", None, None, None]
        for number in range(count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("head", [None, b"live/0f", b'{"format": 2, "stream": "live/0f", "table": "tick_data"}'])
async def test_spool_of_an_old_format_is_read(tmp_path: Path, head: bytes | None) -> None:
    if head is not None:
        (tmp_path / "live.stream").write_bytes(head)
    (tmp_path / f"live.0f.{0:020}.ticks").write_bytes(_as_lines(5))
    (tmp_path / f"live.0f.{5:020}.ticks").write_bytes(_as_lines(3) + b"[" * 2_000 + b"\n" + b'["2026-11-20T00:0')
    async with reopened(tmp_path) as left:
        assert [int(one.price) for one in left[0].ticks.values()] == [1, 2, 3, 4, 5, 1, 2, 3]
        assert [(one.record, one.first, one.end) for one in left[0].missing(0)] == [(4, 8, 9), (5, 9, None)]
    assert sum(name.endswith(".ticks") for name in names(tmp_path)) == 2


async def test_old_spool_refused_before_is_refused_by_name(tmp_path: Path) -> None:
    head = {"format": 2, "stream": "live/0f", "table": "tick_data", "broken": "the spool has lost its end"}
    (tmp_path / "live.stream").write_text(json.dumps(head))
    with pytest.raises(ConfigurationError, match=r"live\.stream says: the spool has lost its end"):
        await found(tmp_path)


FAULTS = [*FILE_FAULTS, *RECORD_FAULTS, *HEAD_FAULTS]


@settings(max_examples=EXAMPLES)
@given(st.integers(1, 25), st.lists(st.tuples(st.sampled_from(FAULTS), st.integers(0, 2**32)), max_size=3))
async def test_damaged_spool_gives_or_names_every_tick(count: int, faults: list[tuple[str, int]]) -> None:
    """Each accepted tick is found once and unchanged, or a damage names its place.

    Only a lost list may hide a lost file.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_files, "_SEGMENT_BYTES", BYTES)
        directory = Path(name)
        await (await filled(directory, count)).close(empty=False)
        for fault, seed in faults:
            damage(directory, "live/0f", fault, random.Random(seed).randrange)
        hidden = {"foreign head", "no head"} & {fault for fault, _ in faults} and {"remove", "copy", "swap files"} & {
            fault for fault, _ in faults
        }
        async with reopened(directory) as left:
            for stream in left:
                if stream.stream != "live/0f":
                    assert not stream.ticks
                    continue
                missing = stream.missing(0)
                for number in range(count):
                    named = any(one.first <= number and (one.end is None or number < one.end) for one in missing)
                    if number in stream.ticks:
                        expected = tick(number)
                        assert (stream.ticks[number].price, stream.ticks[number].bid) == (expected.price, expected.bid)
                    else:
                        assert named or hidden, (number, missing)
                assert set(stream.ticks) <= set(range(count))
            if not hidden:
                assert any(stream.stream == "live/0f" for stream in left)


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_read_without_an_error(data: bytes, framed: bool) -> None:
    if framed:
        data = spool_format.record(spool_format.Kind.TICK, 3, data, spool_format.seed_of("live/0f"))
    content = spool_format.read(data, "live/0f")
    assert content.head is None
    assert content.damages


def test_checksums_cover_number_stream_and_kind() -> None:
    seed = spool_format.seed_of("live/0f")
    whole = spool_format.record(2, 5, b"payload", seed)
    others = [spool_format.record(2, 6, b"payload", seed), spool_format.record(4, 5, b"payload", seed)]
    others.append(spool_format.record(2, 5, b"payload", zlib.crc32(b"live/1f")))
    assert len({one[17:21] for one in [whole, *others]}) == 4


async def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """Checksums of head, ticks and seal. Their numbers have eight bytes, and none passes for another."""
    await (await filled(tmp_path, 3)).close(empty=False)
    (path,) = files(tmp_path)
    data = path.read_bytes()
    assert spool_format.read(data).damages == []
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        content = spool_format.read(bytes(changed), "live/0f")
        assert content.damages, bit
        assert {one.number for one in content.ticks} <= {0, 1, 2}, bit
        assert content.sealed_at in {None, 3}, bit


@pytest.mark.parametrize("name", [f"live.0f.{9:06}.{10**19:020}.spool", f"live.0f.{2**70}.{0:020}.spool"])
async def test_file_names_of_any_number_are_read(tmp_path: Path, name: str) -> None:
    await (await filled(tmp_path, 7)).close(empty=False)
    (tmp_path / name).write_bytes(b"x" * 300)
    async with reopened(tmp_path) as left:
        assert list(left[0].ticks) == list(range(7))
        assert any(name in one.file for one in left[0].missing(0))


async def test_record_set_aside_is_kept_and_not_sent(tmp_path: Path) -> None:
    spool = await filled(tmp_path, 7)
    first, *_ = files(tmp_path)
    with pytest.raises(SpoolInUse):
        set_aside(first, 2, reason="held by a writer")
    await spool.close(empty=False)
    with pytest.raises(NotFound, match="no record 99"):
        set_aside(first, 99, reason="")
    assert set_aside(first, 2, reason="another tick is stored").price == 2
    async with reopened(tmp_path) as left:
        assert (list(left[0].ticks), left[0].missing(0)) == ([0, 2, 3, 4, 5, 6], [])
    reasons = (tmp_path / "live.damaged" / "reasons.txt").read_text()
    assert reasons == f"{first}: record 2: set aside by hand: another tick is stored\n"


async def test_spool_names_that_are_no_file_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QtsDataError, match="a spool's name"):
        Spool(tmp_path, "../x")
