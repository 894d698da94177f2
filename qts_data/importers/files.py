"""Parts shared by all readers of files: lines of a CSV or zip file, remembered values, errors."""

from __future__ import annotations

import codecs
import lzma
import zipfile
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, TypeVar

from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


__all__ = ["Memo", "read_lines", "wrong_width"]


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_BLOCK_BYTES = 65_536
# Longer than any row that can be valid: a file without line ends is not read into memory as one row.
_MAX_LINE_BYTES = 256
# A symbol's day has hundreds of prices and thousands of volumes; the bound protects against unusual files.
_MAX_REMEMBERED = 100_000


class Memo(dict[_Key, _Value]):
    """Remembers the result of a reader for each text: the same text again costs one look-up.

    Files of market data repeat their values. A dict's look-up takes a fraction of the time of `functools.lru_cache`,
    which also keeps an order of use that is not needed here. A text that the reader refuses is not remembered.
    """

    def __init__(self, read: Callable[[_Key], _Value]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, key: _Key) -> _Value:
        value = self._read(key)
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        self[key] = value
        return value


def read_lines(path: Path, *, max_line_bytes: int = _MAX_LINE_BYTES) -> Iterator[bytes]:
    """Yield the lines of a `.csv`, or of the one file in a `.zip`, without their ends.

    A byte order mark is left out. Lines end with LF or CR LF; the last line may lack its end. Of a line longer than
    `max_line_bytes` only the beginning is yielded, which is too long for a row of the layout. The lines after it are
    yielded as usual.

    Args:
        path: The file.
        max_line_bytes: Longest line that can be a row.

    Raises:
        InvalidRecord: The file (field `file`) is missing, empty, damaged, or a zip that does not contain exactly one
            file.
    """
    try:
        with _opened(path) as file:
            block = file.read(_BLOCK_BYTES).removeprefix(codecs.BOM_UTF8)
            if not block:
                raise InvalidRecord(field="file", reason=f"{path} is empty")
            rest = b""
            overlong = False
            while block:
                *lines, rest = (rest + block).replace(b"\r\n", b"\n").split(b"\n")
                if overlong and lines:
                    # The beginning of this line was yielded before.
                    lines, overlong = lines[1:], False
                yield from lines
                if len(rest) > max_line_bytes:
                    if not overlong:
                        yield rest
                    # A carriage return at the very end may be half of a line end.
                    rest, overlong = rest[-1:], True
                block = file.read(_BLOCK_BYTES)
            if rest and not overlong:
                yield rest
    except OSError as error:
        raise InvalidRecord(field="file", reason=f"{path}: {error.strerror or error}") from error
    # zipfile raises more than its own BadZipFile: RuntimeError for a password, its child NotImplementedError for an
    # unknown method, ValueError for a name that is not UTF-8.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError) as error:
        raise InvalidRecord(field="file", reason=f"{path} is not a usable zip file: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        with path.open("rb") as file:
            yield file
    elif suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if not name.endswith("/")]
            if len(members) != 1:
                raise InvalidRecord(field="file", reason=f"{path} holds {len(members)} files instead of one")
            with archive.open(members[0]) as file:
                yield file
    else:
        raise InvalidRecord(field="file", reason=f"{path} is neither a .zip nor a .csv")


def wrong_width(found: int, expected: int) -> InvalidRecord:
    """Return the error for a row with `found` columns. Quotes do not protect commas in these files."""
    return InvalidRecord(field="row", reason=f"has {found} columns instead of {expected}")
