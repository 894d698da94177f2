"""Result of a comparison: as a record, as JSON, and as an HTML page."""

from __future__ import annotations

import dataclasses
import datetime as dt
import html
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from qts_data.contracts.instants import utc_fields
from qts_data.errors import DataConsistencyError

__all__ = ["ConsistencyReport", "Finding", "FindingKind", "TableReport"]

FindingKind: TypeAlias = Literal["missing here", "missing there", "different", "duplicate", "unreadable"]

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}"
    "th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8884;vertical-align:top}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#b00020}.good{color:#00703c}"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference.

    Attributes:
        table: The compared table, such as ledger.
        kind: `missing here` means missing in the database, `missing there` missing in the other source.
        key: Key of the row.
        field: The field that differs; None for a whole row.
        here: Value in the database.
        there: Value in the other source.
        where: Cell or row of the other source, where it is known.
    """

    table: str
    kind: FindingKind
    key: str
    field: str | None
    here: str | None
    there: str | None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class TableReport:
    """Result for one table.

    Attributes:
        table: The compared table.
        rows_here: Rows of the database.
        rows_there: Rows of the other source.
        groups: Groups of rows (in the ledger: one day and symbol) with a sum and a hash each.
        groups_different: Groups whose sums or hashes differ; only in these were rows compared.
        sums_here: Sums of the numbers of all rows of the database.
        sums_there: The same of the other source.
        findings: The differences.
        notes: Remarks that are not differences.
    """

    table: str
    rows_here: int
    rows_there: int
    groups: int
    groups_different: int
    sums_here: dict[str, str]
    sums_there: dict[str, str]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConsistencyReport:
    """Result for two data sources.

    Attributes:
        here: The database.
        there: The other source.
        verified_at: When the comparison ended.
        seconds: How long it took.
        tolerances: Allowed difference of numbers, by table and field; everything else must be equal.
        tables: Result for each table.
    """

    here: str
    there: str
    verified_at: dt.datetime
    seconds: float
    tolerances: dict[str, str]
    tables: tuple[TableReport, ...]

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "verified_at")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every difference."""
        return tuple(finding for table in self.tables for finding in table.findings)

    @property
    def consistent(self) -> bool:
        """Whether there are no differences."""
        return not self.findings

    def require_consistent(self) -> None:
        """Raise an error unless both sides agree.

        Raises:
            DataConsistencyError: They differ; the error carries this report.
        """
        if self.findings:
            first = self.findings[0]
            raise DataConsistencyError(
                f"{len(self.findings)} differences between {self.here} and {self.there}; the first: {first.table} "
                f"{first.key} {first.kind}" + (f" in {first.field}" if first.field else ""),
                report=self,
            )

    def as_json(self) -> dict[str, Any]:
        """Return the attributes and `consistent`, for machines."""
        made = dataclasses.asdict(self)
        made["verified_at"] = self.verified_at.isoformat()
        made["consistent"] = self.consistent
        return made

    def as_html(self) -> str:
        """Return a page that loads nothing from elsewhere."""
        verdict = "Both sides agree" if self.consistent else f"{len(self.findings)} differences"
        rows = "".join(
            _row(table.table, table.rows_here, table.rows_there, table.groups, table.groups_different,
                 len(table.findings), _sums(table))
            for table in self.tables
        )  # fmt: skip
        parts = [
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{verdict}</title><style>{_STYLE}</style>",
            f"<h1 class={'good' if self.consistent else 'bad'}>{verdict}</h1>",
            f"<p>{_text(self.here)} against {_text(self.there)}, {self.verified_at:%Y-%m-%d %H:%M:%S} UTC</p>",
            f"<p>{self.seconds:.1f} s; tolerances: {_text(self.tolerances or 'none')}</p>",
            "<table><tr><th>table<th>rows here<th>rows there<th>groups<th>different<th>findings<th>sums</tr>",
            f"{rows}</table>",
        ]
        if self.findings:
            head = "<tr><th>table<th>what<th>key<th>field<th>here<th>there<th>where</tr>"
            found = "".join(_row(*dataclasses.astuple(finding)) for finding in self.findings)
            parts.append(f"<h2>Differences</h2><table>{head}{found}</table>")
        notes = [note for table in self.tables for note in table.notes]
        if notes:
            parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{_text(note)}" for note in notes) + "</ul>")
        return "".join(parts) + "</html>\n"


def _sums(table: TableReport) -> str:
    return "; ".join(
        f"{name} {here}" + ("" if here == table.sums_there.get(name) else f" against {table.sums_there.get(name)}")
        for name, here in table.sums_here.items()
    )


def _row(*cells: object) -> str:
    return (
        "<tr>" + "".join(f"<td{' class=n' if isinstance(cell, int) else ''}>{_text(cell)}" for cell in cells) + "</tr>"
    )


def _text(value: object) -> str:
    return html.escape("" if value is None else f"{value:,}" if isinstance(value, int) else str(value))
