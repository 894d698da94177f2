"""Ticks on the local disk until they are in the database."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Final

from qts_data.contracts import TickData
from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Found", "Spool"]

_SEGMENT_TICKS: Final = 20_000
_NAME: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Found:
    """What an earlier writer left.

    Attributes:
        stream: Name of the ticks in `ingest_batches`; a new one if there were none.
        base: Ticks of the stream that were forgotten, because they are committed.
        ticks: Those after them, in order; some may be committed too.
    """

    stream: str
    base: int
    ticks: list[TickData]


class Spool:
    """Files of ticks, one line each; a file is removed when all of its ticks are committed.

    Args:
        directory: Where; it is made if it is not there.
        name: Name of the feed, part of the files' names.

    Raises:
        ConfigurationError: The name cannot be part of a file's name.
    """

    def __init__(self, directory: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"a spool's name has letters, digits, dots and dashes, not {name!r}")
        self._directory = directory
        self._name = name
        self._token = ""
        self._file: IO[bytes] | None = None
        self._full: list[IO[bytes]] = []  # files that are not flushed to the disk yet
        self._written = 0  # ticks of the stream that are in files
        self._synced = 0
        self._segments: list[tuple[int, Path]] = []  # number of ticks before it, and the file
        self._syncing: asyncio.Task[None] | None = None

    def open(self, stream: str) -> Found:
        """Read what is there; where nothing is, begin with a stream of this name, which must be new."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._head.exists():
            stream = self._head.read_text(encoding="utf-8")
        else:
            self._write_head(stream)
        self._token = stream.rpartition("/")[2]
        pattern = re.compile(re.escape(self._name) + r"\.([0-9a-f-]+)\.(\d{20})\.ticks")
        files = []
        for path in sorted(self._directory.iterdir()):
            match = pattern.fullmatch(path.name)
            if match is None:
                continue
            if match[1] == self._token:
                files.append((int(match[2]), path))
            else:
                path.unlink()  # of a stream that was committed whole: its head is gone
        base = files[0][0] if files else 0
        ticks: list[TickData] = []
        for first, path in files:
            if first != base + len(ticks):
                raise ConfigurationError(f"{path} does not follow the file before it; the spool is damaged")
            # What follows the last line end was being written when the power went: nobody was told that it is safe.
            ticks += [_tick(line) for line in path.read_bytes().split(b"\n")[:-1]]
        self._written = self._synced = base + len(ticks)
        self._segments = files
        return Found(stream, base, ticks)

    def append(self, tick: TickData) -> None:
        """Write a tick into the current file; not yet to the disk."""
        if self._file is None or self._written - self._segments[-1][0] >= _SEGMENT_TICKS:
            self._file = self._next_file()
        self._file.write(_line(tick))
        self._written += 1

    async def sync(self, number: int) -> None:
        """Wait until the first so many ticks of the stream are on the disk; many waiters share one flush."""
        while self._synced < number:
            if self._syncing is None or self._syncing.done():
                self._syncing = asyncio.create_task(self._flush())
            await asyncio.shield(self._syncing)

    def forget(self, committed: int) -> None:
        """Remove files whose ticks are all committed."""
        while len(self._segments) > 1 and self._segments[1][0] <= committed:
            self._segments.pop(0)[1].unlink()

    def close(self, *, empty: bool) -> None:
        """Close the files; if everything is committed, leave nothing behind."""
        for file in (*self._full, *([self._file] if self._file else [])):
            file.close()
        self._file, self._full = None, []
        if empty:
            # The head first: files without it are known to be committed.
            self._head.unlink(missing_ok=True)
            for _, path in self._segments:
                path.unlink(missing_ok=True)
            self._segments = []

    @property
    def _head(self) -> Path:
        return self._directory / f"{self._name}.stream"

    def _write_head(self, stream: str) -> None:
        new = self._head.with_suffix(".new")
        with new.open("wb") as file:
            file.write(stream.encode())
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._head)
        _sync_directory(self._directory)

    def _next_file(self) -> IO[bytes]:
        if self._file is not None:
            self._full.append(self._file)
        path = self._directory / f"{self._name}.{self._token}.{self._written:020}.ticks"
        if not self._segments or self._segments[-1][0] != self._written:
            self._segments.append((self._written, path))
        return path.open("wb")

    async def _flush(self) -> None:
        files, written = [*self._full, *([self._file] if self._file else [])], self._written
        self._full = []
        for file in files:
            file.flush()
        await asyncio.to_thread(_sync, files, self._directory)
        for file in files:
            if file is not self._file:
                file.close()
        self._synced = written


def _sync(files: list[IO[bytes]], directory: Path) -> None:
    for file in files:
        os.fsync(file.fileno())
    # The name of a new file is on the disk when its directory is.
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _line(tick: TickData) -> bytes:
    return (
        json.dumps(
            [
                tick.time.astimezone(dt.UTC).isoformat(),
                tick.symbol,
                str(tick.price),
                str(tick.volume),
                tick.source,
                tick.seq,
                None if tick.bid is None else str(tick.bid),
                None if tick.ask is None else str(tick.ask),
            ]
        ).encode()
        + b"\n"
    )


def _tick(line: bytes) -> TickData:
    time, symbol, price, volume, source, seq, bid, ask = json.loads(line)
    return TickData(
        time=dt.datetime.fromisoformat(time),
        symbol=symbol,
        price=Decimal(price),
        volume=Decimal(volume),
        source=source,
        seq=seq,
        bid=None if bid is None else Decimal(bid),
        ask=None if ask is None else Decimal(ask),
    )
