"""Spools of the first two formats: lines of JSON, and a head that names the stream. They are read, never written."""

from __future__ import annotations

import datetime as dt
import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from qts_data.contracts import TickData
from qts_data.contracts.leniency import as_stored
from qts_data.errors import InvalidRecord
from qts_data.writers.spool.format import Damage
from qts_data.writers.spool.reading import MOST_LINES_BYTES, Unreadable, read_regular

if TYPE_CHECKING:
    from pathlib import Path

    from qts_data.writers.spool.left import Left

__all__ = ["old_head", "read_lines"]

_LONGEST_LINE: Final = 4_096
_LONGEST_HEAD: Final = 65_536


def old_head(path: Path, name: str) -> tuple[str, str | None, str] | None:
    """Read the stream, its table and why it was refused. None if this is not a head of the old formats."""
    try:
        text = read_regular(path, _LONGEST_HEAD).decode()
        if re.fullmatch(re.escape(name) + "/[0-9a-f-]+", text):
            return text, None, ""
        head = json.loads(text)
        if head["format"] != 2 or not re.fullmatch(re.escape(name) + "/[0-9a-f-]+", head["stream"]):
            return None
        return head["stream"], str(head["table"]), str(head.get("broken") or "")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, Unreadable):
        return None


def read_lines(left: Left, files: list[Path]) -> None:
    """Add the ticks of a stream's files, in the order of their names."""
    expected = 0
    for path in files:
        first = int(path.name.rsplit(".", 2)[1])
        try:
            data = read_regular(path, MOST_LINES_BYTES)
        except Unreadable as error:
            left.damages.append(Damage(str(path), 0, first, None, str(error)))
            continue
        if first > expected:
            reason = f"the files before it are missing, which held {expected:,} to {first - 1:,}"
            left.damages.append(Damage(str(path), 0, expected, first, reason))
        *lines, torn = data.split(b"\n")
        for record, line in enumerate(lines, start=1):
            number = first + record - 1
            try:
                left.ticks[number] = _tick(line)
                left.places[number] = f"{path}:{record}"
            except (ValueError, TypeError, ArithmeticError, InvalidRecord, RecursionError) as error:
                left.damages.append(Damage(str(path), record, number, number + 1, f"holds no tick ({error})"))
        expected = first + len(lines)
        if torn:
            # A crash may have cut the line while it was written, so that its `write` had not returned. Or the file was
            # cut.
            left.damages.append(Damage(str(path), len(lines) + 1, expected, None, "is torn"))
        left.files.append(path)
    left.end = max(left.end, expected)
    left.ticks = dict(sorted(left.ticks.items()))


def _tick(line: bytes) -> TickData:
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"a line of {len(line):,} bytes")
    time, symbol, price, volume, source, seq, bid, ask = json.loads(line)
    # As in the present format: the tick was accepted.
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
