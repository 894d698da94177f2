"""Ticks on the local disk until they are in the database."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import logging
import os
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Final

from qts_data.contracts import TickData
from qts_data.contracts.leniency import as_stored
from qts_data.errors import ConfigurationError, InvalidRecord

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Found", "Spool"]

_log = logging.getLogger(__name__)
_SEGMENT_TICKS: Final = 20_000
# Of the head and of the lines. The first one's head is the name of the stream and nothing else.
_FORMAT: Final = 2
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

    A file is whole before the next one is begun, so that a crash cuts off ticks at the end of the stream only.

    Args:
        directory: Where; it is made if it is not there.
        name: Name of the feed, part of the files' names.
        table: Where the ticks are to go; a spool of another table is refused.

    Raises:
        ConfigurationError: The name cannot be part of a file's name.
    """

    def __init__(self, directory: Path, name: str, *, table: str = "tick_data") -> None:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"a spool's name has letters, digits, dots and dashes, not {name!r}")
        self._directory = directory
        self._name = name
        self._table = table
        self._token = ""
        self._file: IO[bytes] | None = None
        self._flushing: IO[bytes] | None = None  # a thread works on it: not to be closed by anybody else
        self._failure: OSError | None = None  # of a flush: nobody knows what of the files is on the disk
        self._written = 0  # ticks of the stream that are in files
        self._synced = 0
        self._segments: list[tuple[int, Path]] = []  # number of ticks before it, and the file
        self._syncing: asyncio.Task[None] | None = None

    def open(self, stream: str) -> Found:
        """Read what is there; where nothing is, begin with a stream of this name, which must be new.

        Raises:
            ConfigurationError: What is there is damaged, of another program, or of another table; the message names
                the file, and the line.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._head.exists():
            stream = self._read_head()
        # Also where one is: one of the first format gets the table written in.
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
                raise ConfigurationError(
                    f"{path} does not follow the file before it, which ends at tick {base + len(ticks):,} and not at "
                    f"{first:,}; the spool is damaged; move this file and all behind it elsewhere to go on without them"
                )
            # What follows the last line end was being written when the power went: nobody was told that it is safe.
            lines = path.read_bytes().split(b"\n")[:-1]
            ticks += [_tick(line, path, number) for number, line in enumerate(lines, start=1)]
        self._written = self._synced = base + len(ticks)
        self._segments = files
        return Found(stream, base, ticks)

    def place(self, number: int) -> str:
        """File and line of a tick of the stream, counted from 0, for a person."""
        first, path = max(segment for segment in self._segments if segment[0] <= number)
        return f"{path}:{number - first + 1}"

    def refuse(self, stream: str, reason: str) -> None:
        """Let no later writer go on with these files, until somebody has moved them away."""
        self._write_head(stream, broken=reason)

    def append(self, tick: TickData) -> None:
        """Write a tick into the current file; not yet to the disk.

        Raises:
            OSError: The disk refused, and the tick is in no file.
        """
        if self._failure is not None:
            raise self._failure
        if self._file is None or self._written - self._segments[-1][0] >= _SEGMENT_TICKS:
            self._file = self._next_file()
        self._file.write(_line(tick))
        self._written += 1

    async def sync(self, number: int) -> None:
        """Wait until the first so many ticks of the stream are on the disk; many waiters share one flush.

        Raises:
            OSError: The disk refused, now or earlier. After a failed flush the system may have dropped what was to be
                written, and a second one would succeed without it: so there is none, and nothing more is taken.
        """
        while self._synced < number:
            if self._failure is not None:
                raise self._failure
            if self._syncing is None or self._syncing.done():
                self._syncing = asyncio.create_task(self._flush())
            await asyncio.shield(self._syncing)

    def forget(self, committed: int) -> None:
        """Remove files whose ticks are all committed; what the disk refuses to remove is tried again the next time."""
        while len(self._segments) > 1 and self._segments[1][0] <= committed:
            try:
                self._segments[0][1].unlink(missing_ok=True)
            except OSError as error:
                _log.warning("%s is not needed any more and cannot be removed: %s", self._segments[0][1], error)
                return
            # Not before: a file that stays while the next one goes would look like a damaged spool.
            self._segments.pop(0)

    async def close(self, *, empty: bool) -> None:
        """Close the files; if everything is committed, leave nothing behind."""
        if self._syncing is not None and not self._syncing.done():
            await asyncio.wait([self._syncing])
        if empty:
            self._synced = self._written
        elif self._failure is None:
            # Somebody may still wait for this; who hears of a failure is the one who waits.
            with contextlib.suppress(OSError):
                await self._flush()
        # What is committed, or was refused before, needs no place on the disk.
        with contextlib.suppress(*([OSError] if empty or self._failure is not None else [])):
            if self._file is not None:
                self._file.close()
        self._file = None
        if empty:
            # The head first: files without it are known to be committed.
            self._head.unlink(missing_ok=True)
            for _, path in self._segments:
                path.unlink(missing_ok=True)
            self._segments = []

    @property
    def _head(self) -> Path:
        return self._directory / f"{self._name}.stream"

    def _read_head(self) -> str:
        """Name of the stream."""
        try:
            text = self._head.read_bytes().decode()
            if re.fullmatch(re.escape(self._name) + "/[0-9a-f-]+", text):
                return text
            head = json.loads(text)
            version, stream, table = head["format"], head.get("stream"), head.get("table")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ConfigurationError(
                f"{self._head} is damaged, or no file of ours; move it and the files {self._name}.*.ticks elsewhere to "
                "go on without what they hold"
            ) from error
        if version != _FORMAT or not isinstance(stream, str):
            raise ConfigurationError(f"{self._head} is of format {version}; this version knows 1 and {_FORMAT}")
        if head.get("broken"):
            raise ConfigurationError(f"{self._head} says: {head['broken']}")
        if table != self._table:
            raise ConfigurationError(
                f"{self._head} belongs to a writer into {table}, not into {self._table}: start one for {table} to send "
                "what waits there, or give this feed another name"
            )
        return stream

    def _write_head(self, stream: str, **more: str) -> None:
        new = self._head.with_suffix(".new")
        with new.open("wb") as file:
            file.write(json.dumps({"format": _FORMAT, "stream": stream, "table": self._table} | more).encode())
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._head)
        _sync_directory(self._directory)

    def _next_file(self) -> IO[bytes]:
        if self._file is not None:
            self._finish(self._file)
            self._file = None
        path = self._directory / f"{self._name}.{self._token}.{self._written:020}.ticks"
        file = path.open("wb")
        if not self._segments or self._segments[-1][0] != self._written:
            self._segments.append((self._written, path))
        return file

    def _finish(self, file: IO[bytes]) -> None:
        """Make a full file whole, before there is one behind it."""
        file.flush()
        # Here and not in a thread: the next tick must wait for it. It comes once in thousands of ticks.
        try:
            _sync(file, self._directory)
        except OSError as error:
            self._failure = error
            raise
        if file is not self._flushing:
            file.close()

    async def _flush(self) -> None:
        file, written = self._file, self._written
        try:
            if file is not None:
                self._flushing = file
                file.flush()
                await asyncio.to_thread(_sync, file, self._directory)
            if self._failure is not None:  # the system tells an error once, whoever asks first
                raise self._failure
        except OSError as error:
            self._failure = error
            raise
        finally:
            self._flushing = None
            if file is not None and file is not self._file:
                file.close()
        self._synced = written


def _sync(file: IO[bytes], directory: Path) -> None:
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


def _tick(line: bytes, path: Path, number: int) -> TickData:
    try:
        time, symbol, price, volume, source, seq, bid, ask = json.loads(line)
        # The writer accepted it, perhaps under a permission that this process lacks.
        with as_stored():
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
    except (ValueError, TypeError, ArithmeticError, InvalidRecord) as error:
        raise ConfigurationError(
            f"{path}:{number} holds no tick ({error}); the spool is damaged: set the line right, or move this file and "
            "all behind it elsewhere to go on without them"
        ) from error
