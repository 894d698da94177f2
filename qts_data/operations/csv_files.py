"""CSV files of a book, imported into the same tables by the same rules as live data."""

from __future__ import annotations

import csv
import datetime as dt
import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from qts_data.bootstrap import book_defaults, checked_database
from qts_data.contracts import OHLCV, BookedFill
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.importers.tables import DAILY_BARS, LEDGER, POSITIONS, Defaults, Header, RecordMaker, read_rows
from qts_data.moving.fills import FillLine, book_lines
from qts_data.moving.plan import opening_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from qts_data.contracts import LedgerEntry, Position
    from qts_data.importers.tables import Layout
    from qts_data.repositories import Database, UnitOfWork
    from qts_data.settings import Settings

__all__ = ["CsvImportReport", "CsvKind", "CsvMapping", "CsvReject", "import_csv", "import_csv_file", "read_csv"]

CsvKind: TypeAlias = Literal["ledger", "positions", "daily-bars"]
_LAYOUTS: Final[Mapping[str, Layout]] = MappingProxyType(
    {"ledger": LEDGER, "positions": POSITIONS, "daily-bars": DAILY_BARS}
)
_CHUNK: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvMapping:
    """How to read a file.

    Attributes:
        columns: The file's header for each of our names, if it is not a known one.
        defaults: Values for columns that the file lacks.
        delimiter: The character between two columns.
        encoding: Encoding of the text. `utf-8-sig` leaves a byte order mark out; Korean spreadsheets also write
            `cp949`.
    """

    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    defaults: Defaults = field(default_factory=Defaults)
    delimiter: str = ","
    encoding: str = "utf-8-sig"

    @classmethod
    def load(cls, path: Path, defaults: Defaults) -> CsvMapping:
        """Read a TOML file: keys `delimiter` and `encoding`, tables `columns`, `defaults` and `id_scopes`.

        Raises:
            ConfigurationError: The file cannot be read, contains unknown keys, or an id scope contradicts the settings.
        """
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the mapping {path} cannot be read: {error}") from error
        known = {field.name for field in fields(Defaults)} - {"identity"}
        unknown = (given.keys() - {"columns", "defaults", "delimiter", "encoding", "id_scopes"}) | (
            given.get("defaults", {}).keys() - known
        )
        if unknown:
            raise ConfigurationError(
                f"the mapping {path} holds {min(unknown)!r}; it may hold delimiter, encoding, [columns], [id_scopes], "
                f"and under [defaults] {', '.join(sorted(known))}"
            )
        scopes = given.get("id_scopes", {})
        if not isinstance(scopes, dict):
            raise ConfigurationError(f"the mapping {path}: [id_scopes] must be a table of brokers, is {scopes!r}")
        try:
            identity = defaults.identity.with_scopes(scopes)
        except ConfigurationError as error:
            raise ConfigurationError(f"the mapping {path}: {error}") from error
        return cls(
            columns=given.get("columns", {}),
            defaults=replace(defaults, **given.get("defaults", {}), identity=identity),
            delimiter=given.get("delimiter", ","),
            encoding=given.get("encoding", "utf-8-sig"),
        )


@dataclass(frozen=True, slots=True)
class CsvReject:
    """A refused row.

    Attributes:
        line: Number of its first line in the file.
        reason: Reason of the refusal; names the cell.
        cells: Contents of the row.
    """

    line: int
    reason: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CsvImportReport:
    """Result of an import.

    Attributes:
        read: Number of rows.
        written: Number of rows that changed the database.
        unchanged: Number of rows that were stored already.
        rejects: The refused rows.
    """

    read: int
    written: int
    unchanged: int
    rejects: tuple[CsvReject, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    line: int
    record: Any
    cells: tuple[str, ...]
    reverses: str | None = None


def read_csv(path: Path, kind: CsvKind, mapping: CsvMapping) -> Iterator[_Read | CsvReject]:
    """Read the records of a file, and the rows without a record, in the order of the file.

    Raises:
        InvalidRecord: A column is missing or occurs twice, or the file is not CSV from some line on.
        ConfigurationError: The file cannot be read.
    """
    layout, defaults = _LAYOUTS[kind], mapping.defaults
    rows = _rows(path, mapping)
    _, names = next(rows, (1, []))
    header = Header.of(layout, path.name, names, mapping.columns)
    maker = RecordMaker(header, defaults)
    for line, cells in rows:
        read = read_rows(
            header, [cells], zone=defaults.zone, market=defaults.market, currency=defaults.currency, first_row=line
        )
        for row in read:
            said = tuple(cells)
            if len(cells) != header.width:  # a shorter row was cut off: its last cell may be incomplete
                yield CsvReject(line, f"the row has {len(cells)} columns, the header {header.width}", said)
            elif row.problems:
                yield CsvReject(line, "; ".join(f"{one.field}: {one.reason}" for one in row.problems), said)
            else:
                try:
                    record, reverses = maker.make(row), row.values.get("reverses")
                    if reverses is not None:
                        reverses = defaults.identity.reference(record, reverses)
                    yield _Read(line, record, said, reverses)
                except InvalidRecord as error:
                    yield CsvReject(line, f"{error.field}: {error.reason}", said)


def _without_contradictions(kind: CsvKind, found: Iterable[_Read | CsvReject]) -> Iterator[_Read | CsvReject]:
    """Pass the rows on, and refuse lines that contradict each other: the right one is unknown."""
    if kind == "ledger":  # the book decides by execution ids
        yield from found
        return
    every = list(found)
    alike: dict[tuple[object, ...], list[_Read]] = defaultdict(list)
    for one in every:
        if isinstance(one, _Read):
            alike[_key_of(one.record)].append(one)
    for one in every:
        others = alike[_key_of(one.record)] if isinstance(one, _Read) else []
        if isinstance(one, CsvReject) or len(others) == 1 or (kind == "daily-bars" and _are_equal(others)):
            yield one
        else:
            lines = ", ".join(str(other.line) for other in others)
            thing, what = "position", "it comes once"
            if kind == "daily-bars":
                thing, what = "symbol and day", "they differ: which of them is right?"
            yield CsvReject(one.line, f"the lines {lines} are of the same {thing}; {what}", one.cells)


def _key_of(record: Position | OHLCV) -> tuple[object, ...]:
    return (record.symbol, record.time) if isinstance(record, OHLCV) else (record.account, record.symbol)


def _are_equal(rows: list[_Read]) -> bool:
    return all(row.record == rows[0].record for row in rows)


def _rows(path: Path, mapping: CsvMapping) -> Iterator[tuple[int, list[str]]]:
    line = 0
    try:
        with path.open(encoding=mapping.encoding, newline="") as file:
            reader = csv.reader(file, delimiter=mapping.delimiter, strict=True)
            for row in reader:
                yield line + 1, row
                line = reader.line_num
    except csv.Error as error:
        raise InvalidRecord(field=f"{path.name}!{line + 1}", reason=f"is not CSV: {error}", row=line + 1) from error
    except UnicodeError as error:
        raise ConfigurationError(
            f'{path.name} is not {mapping.encoding} after line {line}; set encoding = "cp949", or the right one, in '
            "the mapping file"
        ) from error
    except (OSError, LookupError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


async def import_csv(
    database: Database,
    path: Path,
    kind: CsvKind,
    mapping: CsvMapping,
    *,
    all_or_nothing: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> CsvImportReport:
    """Import a file. A row that is stored already changes nothing, so a file may be imported again.

    - Fills are booked in the order of the file; a line that reverses a fill stands after it.
    - A position becomes its opening fill. If the book has the position already, both must be equal: only fills change
      it.
    - Bars are inserted or corrected.
    - A position that occurs twice is refused in all its rows, and so are bars of one day that differ.

    Args:
        database: The target.
        path: The file.
        kind: Kind of its rows.
        mapping: How to read the file.
        all_or_nothing: If a row is bad, import none; otherwise import the good ones.
        dry_run: Import everything, then roll it back.
        progress: Called with the number of rows done and the number of readable rows.

    Raises:
        InvalidRecord: A column is missing; with `all_or_nothing` also: a row is bad.
    """
    rows: list[_Read] = []
    rejects: list[CsvReject] = []
    for one in _without_contradictions(kind, read_csv(path, kind, mapping)):
        if isinstance(one, _Read):
            rows.append(one)
        elif all_or_nothing and not dry_run:
            raise InvalidRecord(field=path.name, reason=one.reason, row=one.line)
        else:
            rejects.append(one)
    counts: Counter[str] = Counter()
    size = len(rows) if all_or_nothing or dry_run else _CHUNK
    for start in range(0, len(rows), max(size, 1)):
        progress(start, len(rows))
        part = rows[start : start + size]

        async def work(uow: UnitOfWork, part: list[_Read] = part) -> tuple[Counter[str], list[CsvReject]]:
            done = await _write(uow, kind, part, strict=all_or_nothing and not dry_run)
            if dry_run:
                raise _TakenBack(done)
            return done

        try:
            counted, refused = await database.run(work)
        except _TakenBack as taken_back:
            counted, refused = taken_back.done
        counts += counted
        rejects += refused
    progress(len(rows), len(rows))
    rejects.sort(key=lambda one: one.line)
    read = len(rows) + len(rejects) - counts["refused"]
    return CsvImportReport(read, counts["written"], counts["unchanged"], tuple(rejects))


class _TakenBack(Exception):
    def __init__(self, done: tuple[Counter[str], list[CsvReject]]) -> None:
        super().__init__()
        self.done = done


_Done: TypeAlias = "tuple[Counter[str], list[CsvReject]]"


async def _write(uow: UnitOfWork, kind: CsvKind, part: list[_Read], *, strict: bool) -> _Done:
    if kind == "daily-bars":
        try:
            report = await uow.daily_bars.upsert(row.record for row in part)
        except InvalidRecord as error:
            raise error.at(part[(error.row or 1) - 1].line) from error
        return Counter(written=report.inserted + report.updated, unchanged=report.unchanged), []
    if kind == "ledger":
        return await _book(uow, [(row, FillLine(row.record, row.reverses)) for row in part], strict=strict)
    fills: list[tuple[_Read, FillLine]] = []
    unchanged = 0
    rejects: list[CsvReject] = []
    for row in part:
        refusal, opening = await _opening(uow, row.record)
        if refusal is not None:
            rejects.append(_refused(row, refusal, strict=strict))
        elif opening is None:
            unchanged += 1
        else:
            fills.append((row, FillLine(opening)))
    counts, refused = await _book(uow, fills, strict=strict)
    counts += Counter(unchanged=unchanged, refused=len(rejects))
    return counts, rejects + refused


async def _book(uow: UnitOfWork, fills: list[tuple[_Read, FillLine]], *, strict: bool) -> _Done:
    counts: Counter[str] = Counter()
    rejects: list[CsvReject] = []
    results = await book_lines(uow, [line for _, line in fills], on_error="collect")
    for (row, _), result in zip(fills, results, strict=True):
        if isinstance(result, BookedFill):
            counts["unchanged" if result.duplicate else "written"] += 1
        elif result is not None:
            rejects.append(_refused(row, result.reason, strict=strict))
            counts["refused"] += 1
    return counts, rejects


def _refused(row: _Read, reason: str, *, strict: bool) -> CsvReject:
    if strict:
        raise InvalidRecord(field="fill", reason=reason, row=row.line)
    return CsvReject(row.line, reason, row.cells)


async def _opening(uow: UnitOfWork, position: Position) -> tuple[str | None, LedgerEntry | None]:
    """Return the reason of a refusal, or the opening fill. Neither if the position is stored or has no quantity."""
    held = await uow.positions.find_position(position.symbol, position.account)
    if held is None:
        return None, opening_of(position, dt.datetime.now(dt.UTC)) if position.qty else None
    if (held.qty, held.avg_price) == (position.qty, position.avg_price):
        return None, None
    return (
        f"the book holds {held.qty.normalize():f} at {held.avg_price.normalize():f}, the file says "
        f"{position.qty.normalize():f} at {position.avg_price.normalize():f}: only fills change a position"
    ), None


async def import_csv_file(
    settings: Settings,
    kind: CsvKind,
    path: Path,
    mapping: Path | None,
    *,
    all_or_nothing: bool,
    dry_run: bool,
    progress: Callable[[int, int], None],
) -> CsvImportReport:
    """Import a file of a book. See `qts_data.operations.csv_files.import_csv`."""
    defaults = book_defaults(settings)
    how = CsvMapping(defaults=defaults) if mapping is None else CsvMapping.load(mapping, defaults)
    async with checked_database(settings) as made:
        return await import_csv(
            made, path, kind, how, all_or_nothing=all_or_nothing, dry_run=dry_run, progress=progress
        )
