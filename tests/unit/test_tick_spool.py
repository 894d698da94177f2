"""Files of ticks that are not in the database yet: what a crash leaves, what a disk refuses, what is no spool."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qts_data.errors import ConfigurationError
from qts_data.repositories.ticks.spool import Spool
from tests.fixtures.factories import TickFactory

if TYPE_CHECKING:
    from qts_data.contracts import TickData

SIZE = 5


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qts_data.repositories.ticks.spool._SEGMENT_TICKS", SIZE)


def tick(number: int) -> TickData:
    return TickFactory.build(time=dt.datetime(2026, 11, 20, tzinfo=dt.UTC), price=Decimal(number + 1))


def filled(directory: Path, count: int) -> Spool:
    spool = Spool(directory, "live")
    spool.open("live/0f")
    for number in range(count):
        spool.append(tick(number))
    return spool


def found(directory: Path) -> list[int]:
    return [int(one.price) - 1 for one in Spool(directory, "live").open("live/1f").ticks]


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.ticks"))


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def open_files(directory: Path) -> int:
    """Handles of this process to files of a directory, removed ones too."""
    links = []
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(handle.readlink()))
    return sum(link.startswith(f"{directory}/") for link in links)


_CRASH = """
import datetime as dt, os, sys
from decimal import Decimal
from pathlib import Path
from qts_data.contracts import TickData
from qts_data.repositories.ticks.spool import Spool
spool = Spool(Path(sys.argv[1]), "live")
spool.open("live/0f")
for number in range(20_500):
    time = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    spool.append(TickData(time=time, symbol="X", price=Decimal(number + 1), volume=Decimal(1)))
os._exit(1)
"""


def test_a_crash_cuts_off_the_end_and_the_spool_can_be_opened(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", _CRASH, str(tmp_path)], check=False).returncode == 1
    numbers = found(tmp_path)
    assert 20_000 <= len(numbers) < 20_500
    assert numbers == list(range(len(numbers)))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for open files")
async def test_files_that_are_full_or_gone_are_not_held_open(tmp_path: Path) -> None:
    spool = filled(tmp_path, 20 * SIZE)
    assert open_files(tmp_path) == 1
    spool.forget(20 * SIZE)
    assert open_files(tmp_path) == 1
    assert len(files(tmp_path)) == 1
    await spool.close(empty=True)
    assert (open_files(tmp_path), names(tmp_path)) == (0, [])


async def test_a_full_file_is_on_the_disk_before_the_next_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: list[int] = []  # lines of the files that were flushed
    real = os.fsync

    def watched(handle: int) -> None:
        real(handle)
        on_disk.append(os.fstat(handle).st_size)

    spool = filled(tmp_path, SIZE)
    monkeypatch.setattr(os, "fsync", watched)
    spool.append(tick(SIZE))
    (first, second) = files(tmp_path)
    assert on_disk[0] == first.stat().st_size > 0
    assert second.stat().st_size == 0
    await spool.sync(SIZE + 1)
    assert second.stat().st_size > 0
    await spool.close(empty=False)
    assert found(tmp_path) == list(range(SIZE + 1))


async def test_a_flush_that_failed_is_not_tried_again_and_nothing_more_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = filled(tmp_path, 3)
    await spool.sync(3)
    spool.append(tick(3))

    def refuses(_: int) -> None:
        monkeypatch.undo()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuses)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            await spool.sync(4)
    with pytest.raises(OSError, match="No space left"):
        spool.append(tick(4))
    await spool.sync(3)  # these are safe
    await spool.close(empty=False)
    assert found(tmp_path) == [0, 1, 2, 3]


async def test_a_full_file_that_cannot_be_flushed_ends_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = filled(tmp_path, SIZE)

    def refuses(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(OSError, match="Input/output"):
        spool.append(tick(SIZE))
    monkeypatch.undo()
    with pytest.raises(OSError, match="Input/output"):
        spool.append(tick(SIZE))
    assert len(files(tmp_path)) == 1
    await spool.close(empty=False)


async def test_a_tick_for_which_no_file_could_be_begun_may_be_written_again(tmp_path: Path) -> None:
    spool = filled(tmp_path, SIZE)
    in_the_way = tmp_path / f"live.0f.{SIZE:020}.ticks"
    in_the_way.mkdir()
    for _ in range(2):
        with pytest.raises(IsADirectoryError):
            spool.append(tick(SIZE))
    in_the_way.rmdir()
    for number in range(SIZE, 3 * SIZE):
        spool.append(tick(number))
    await spool.close(empty=False)
    assert found(tmp_path) == list(range(3 * SIZE))


async def test_a_file_that_cannot_be_removed_yet_is_removed_later(tmp_path: Path) -> None:
    spool = filled(tmp_path, 3 * SIZE)
    (first, *_) = files(tmp_path)
    first.rename(tmp_path / "kept")
    first.mkdir()  # which unlink refuses, whoever asks
    spool.forget(3 * SIZE)
    assert len(files(tmp_path)) == 3
    first.rmdir()
    (tmp_path / "kept").rename(first)
    spool.forget(3 * SIZE)
    assert len(files(tmp_path)) == 1
    await spool.close(empty=True)


async def test_a_missing_file_is_said_with_what_to_do(tmp_path: Path) -> None:
    await filled(tmp_path, 3 * SIZE).close(empty=False)
    _, second, third = files(tmp_path)
    second.unlink()
    with pytest.raises(ConfigurationError, match=rf"{third.name} does not .* at tick 5 and not at 10; .* elsewhere"):
        found(tmp_path)
    third.unlink()
    assert found(tmp_path) == list(range(SIZE))


async def test_the_head_carries_format_and_table_and_another_table_is_refused(tmp_path: Path) -> None:
    spool = filled(tmp_path, 3)
    await spool.close(empty=False)
    head = tmp_path / "live.stream"
    assert json.loads(head.read_text()) == {"format": 2, "stream": "live/0f", "table": "tick_data"}
    with pytest.raises(ConfigurationError, match="into tick_data, not into tick_history: start one for tick_data"):
        Spool(tmp_path, "live", table="tick_history").open("live/1f")
    assert found(tmp_path) == [0, 1, 2]


async def test_a_head_of_the_first_format_is_read_and_gets_the_table(tmp_path: Path) -> None:
    await filled(tmp_path, 3).close(empty=False)
    head = tmp_path / "live.stream"
    head.write_text("live/0f")
    assert [int(one.price) for one in Spool(tmp_path, "live", table="tick_history").open("live/1f").ticks] == [1, 2, 3]
    assert json.loads(head.read_text()) == {"format": 2, "stream": "live/0f", "table": "tick_history"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "is damaged, or no file of ours"),
        (b"other/0f", "is damaged, or no file of ours"),
        (b"\xff", "is damaged, or no file of ours"),
        (b"[]", "is damaged, or no file of ours"),
        (b"{}", "is damaged, or no file of ours"),
        (b'{"format": 3}', "is of format 3; this version knows 1 and 2"),
    ],
)
def test_a_head_that_is_none_is_refused_with_its_path(tmp_path: Path, text: bytes, reason: str) -> None:
    (tmp_path / "live.stream").write_bytes(text)
    with pytest.raises(ConfigurationError, match=rf"live\.stream {reason}"):
        found(tmp_path)
    assert (tmp_path / "live.stream").read_bytes() == text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"005930"', b'"005930'),
        (b", null]", b", null, 1]"),
        (b"]\n", b"]\0\0\n"),
        (b'"005930"', b"5930"),
        (b'"2026-', b'"x026-'),
        (b'"2026-11-20T00:00:00+00:00"', b"7"),
        (b'"3"', b'"x"'),
        (b'"3"', b'"NaN"'),
        (b"[", b"\xff"),
        (b"]\n", b"]\n7\n"),
    ],
)
async def test_a_line_that_is_no_tick_is_refused_with_its_path_and_number(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    await filled(tmp_path, 8).close(empty=False)
    first, *_ = files(tmp_path)
    lines = first.read_bytes().splitlines(keepends=True)
    assert old in lines[2]
    lines[2] = lines[2].replace(old, new, 1)
    first.write_bytes(b"".join(lines))
    number = 4 if new == b"]\n7\n" else 3
    with pytest.raises(ConfigurationError, match=rf"{first.name}:{number} holds no tick \(.*set the line right"):
        found(tmp_path)
