"""Reading of a spool after its writer ended: which ticks are whole, and which are missing.

Nothing is changed here. The files of a stream are put in order by their heads, their ticks by number. A number
without a tick is a hole. The table decides whether a hole matters: ticks whose number is below that of the stream in
`ingest_batches` are stored, and their files were removed for that reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from qts_data.errors import ConfigurationError
from qts_data.writers.spool.files import STREAM, Listed, read_list
from qts_data.writers.spool.format import MOST_NUMBER, Damage, FileContent, Head, read
from qts_data.writers.spool.left import Left
from qts_data.writers.spool.lines import old_head, read_lines
from qts_data.writers.spool.reading import (
    MOST_LINES_BYTES,
    MOST_SEGMENT_BYTES,
    Unreadable,
    read_regular,
    refuse_large,
    refuse_special,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = ["Scan", "scan"]


@dataclass(slots=True)
class Scan:
    """The content of a spool's directory.

    Attributes:
        left: Streams, the oldest first.
        damages: Damages that belong to no stream, each with its file.
        unread: Paths that are not regular files, or too large, with the fault.
    """

    left: list[Left] = field(default_factory=list)
    damages: list[tuple[Path, Damage]] = field(default_factory=list)
    unread: list[tuple[Path, Damage]] = field(default_factory=list)


def scan(directory: Path, name: str, table: str) -> Scan:
    """Read all files of a feed.

    Raises:
        ConfigurationError: The spool belongs to a writer into another table.
        OSError: The disk could not be read.
    """
    found = Scan()
    streams: dict[str, Left] = {}
    head = directory / f"{name}.stream"
    if not _skipped(head, found, MOST_LINES_BYTES):
        _take_list(head, name, table, streams, found)
    contents = _contents(directory, name, found)
    for stream in contents.keys() | streams.keys():  # includes listed streams whose files are all gone
        _refuse_other_tables(contents.get(stream, []), table)
        _put_in_order(streams.setdefault(stream, Left(stream)), contents.get(stream, []))
    for stream, files in _old_files(directory, name, found).items():
        read_lines(streams.setdefault(stream, Left(stream)), files)
    found.left = sorted(streams.values(), key=lambda one: (one.position, one.end, one.stream))
    return found


def _take_list(head: Path, name: str, table: str, streams: dict[str, Left], found: Scan) -> None:
    listed = read_list(head)
    if listed is None and (old := old_head(head, name)) is not None:
        stream, its_table, broken = old
        _refuse(head, its_table or table, table)
        if broken:
            raise ConfigurationError(f"{head} says: {broken}")
        streams[stream] = Left(stream)
    elif listed is None:
        sentence = "is damaged, or not a file of qts-data; the files of the spool were read without it"
        found.damages.append((head, Damage(str(head), 0, 0, 0, sentence)))
    else:
        _refuse(head, listed[0], table)
        for stream, files, position in listed[1]:
            streams[stream] = Left(stream, position=position, listed=files)


def _refuse_other_tables(contents: list[tuple[Path, FileContent]], table: str) -> None:
    for path, content in contents:
        if content.head is not None:
            _refuse(path, content.head.table, table)


def _refuse(path: Path, its_table: str, table: str) -> None:
    if its_table != table:
        raise ConfigurationError(
            f"{path} belongs to a writer into {its_table}, not into {table}: start one for {its_table} to send "
            "what waits there, or give this feed another name"
        )


def _contents(directory: Path, name: str, found: Scan) -> dict[str, list[tuple[Path, FileContent]]]:
    """Read the files. A file belongs to the stream in its head, or if that is damaged, to the one in its name."""
    pattern = re.compile(re.escape(name) + r"\.([0-9a-f-]+)\.\d{6,}\.\d{20}\.spool")
    contents: dict[str, list[tuple[Path, FileContent]]] = {}
    for by_name, files in _by_stream(directory, name, pattern, found, MOST_SEGMENT_BYTES).items():
        for path in files:
            content = read(read_regular(path, MOST_SEGMENT_BYTES), by_name)
            stream = by_name if content.head is None else content.head.stream
            if stream.startswith(f"{name}/") and STREAM.fullmatch(stream):
                contents.setdefault(stream, []).append((path, content))
            else:
                reason = f"is a file of {stream}, which is another feed; nothing of it was sent"
                found.damages.append((path, Damage(str(path), 0, 0, None, reason)))
    return contents


def _old_files(directory: Path, name: str, found: Scan) -> dict[str, list[Path]]:
    pattern = re.compile(re.escape(name) + r"\.([0-9a-f-]+)\.(\d{20})\.ticks")
    return _by_stream(directory, name, pattern, found, MOST_LINES_BYTES)


def _by_stream(directory: Path, name: str, pattern: re.Pattern[str], found: Scan, most: int) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(directory.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is not None and not _skipped(path, found, most, *map(int, match.groups()[1:])):
            files.setdefault(f"{name}/{match[1]}", []).append(path)
    return files


def _skipped(path: Path, found: Scan, most: int, *numbers: int) -> bool:
    """Return whether a path is not to be read, and note the reason. A missing path is skipped without one."""
    try:
        status = path.lstat()
        refuse_special(status)
        refuse_large(status, most)
        _refuse_numbers(numbers)
    except FileNotFoundError:
        return True
    except Unreadable as error:
        found.unread.append((path, Damage(str(path), 0, 0, None, str(error))))
        return True
    return False


def _refuse_numbers(numbers: tuple[int, ...]) -> None:
    if any(number > MOST_NUMBER for number in numbers):
        raise Unreadable("has a number in its name that no writer gives; it was not read")


def _put_in_order(left: Left, contents: list[tuple[Path, FileContent]]) -> None:
    ordered = sorted(
        ((content.head or _head_by_name(left, path, content), path, content) for path, content in contents),
        key=lambda one: (one[0].ordinal, str(one[1])),
    )
    expected = 0
    ordinal = -1
    for head, path, content in ordered:
        left.position = max(left.position, head.position)
        if head.ordinal == ordinal:
            left.damages.append(Damage(str(path), 0, head.first, head.first, "is there twice"))
        elif head.first > expected:
            before = f"the files before it are missing, which held {expected:,} to {head.first - 1:,}"
            left.damages.append(Damage(str(path), 0, expected, head.first, before))
            expected = head.first
        expected = max(expected, _take_file(left, head, path, content))
        ordinal = head.ordinal
        left.files.append(path)
    if ordinal < left.listed - 1:
        names = f"file {ordinal + 1} to {left.listed - 1} of {left.listed} of {left.stream}"
        left.damages.append(Damage(names, 0, expected, None, "is missing"))
    left.listed = max(left.listed, ordinal + 1)
    left.end = max(left.end, expected)
    left.ticks = dict(sorted(left.ticks.items()))


def _head_by_name(left: Left, path: Path, content: FileContent) -> Head:
    _, ordinal, first, _ = path.name.rsplit(".", 3)
    known = [one.number for one in content.ticks]
    # A number that no writer gives proves nothing about the stream's numbers.
    if int(first) <= MOST_NUMBER:
        known.append(int(first))
    return Head(left.stream, "", min(int(ordinal), MOST_NUMBER - 1), min(known, default=0), left.position)


def _take_file(left: Left, head: Head, path: Path, content: FileContent) -> int:
    """Add the ticks of a file, and note the missing ones. Return the number after its last tick."""
    known = {one.number for one in content.ticks} | content.aside
    reasons = list(content.damages)
    for before, one in zip([None, *content.ticks], content.ticks, strict=False):
        stored = left.ticks.setdefault(one.number, one.tick)
        left.places.setdefault(one.number, f"{path}:{one.record}")
        if stored != one.tick:
            reasons.append((one.record, f"number {one.number:,} is given to two ticks; the first one is taken"))
        if before is not None and one.number <= before.number:
            left.damages.append(
                Damage(str(path), one.record, one.number, one.number, "is doubled, or does not stand in its order")
            )
    end = max([head.first, *(number + 1 for number in known)])
    if content.sealed_at is not None:
        end = max(end, content.sealed_at)
    left.damages += _holes(path, head.first, end, known, content)
    torn = content.torn and content.sealed_at is None
    for place, reason in reasons:
        # After the last whole record of a file without a seal, the number of lost records is unknown.
        is_last = torn and (place, reason) == content.damages[-1]
        left.damages.append(Damage(str(path), place, end, None if is_last else end, reason))
    return end


def _holes(path: Path, first: int, end: int, known: set[int], content: FileContent) -> Iterator[Damage]:
    """Yield a damage for each run of numbers that no record has."""
    places = {one.number: one.record for one in content.ticks}
    before = first - 1
    for number in [*sorted(one for one in known if first <= one < end), end]:
        if number > before + 1:
            record = places.get(before, 0) + 1
            yield Damage(str(path), record, before + 1, number, "is missing or damaged")
        before = number


def listed(left: list[Left]) -> list[Listed]:
    """Make the entries of the list of files, for streams that are not stored yet."""
    return [Listed(one.stream, one.listed, one.position) for one in left]
