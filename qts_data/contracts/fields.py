"""Declarations of fields: how each field of a record is stored and compared, declared once, beside the field.

A record declares its fields with `field(metadata=stored(...))`. Columns of tables, rows on the wire, layouts of sheets
and CSV files, the comparison of two sources and the rules of redelivery all read this declaration.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ACCOUNT",
    "CURRENCY",
    "MARKET",
    "SYMBOL",
    "UPDATED_AT",
    "CellKind",
    "SheetColumn",
    "Sql",
    "Stored",
    "columns_of",
    "compared_fields",
    "defaulted_fields",
    "embedded",
    "sheet_column",
    "sheet_columns",
    "stored",
    "stored_fields",
    "unlosable_fields",
]

CellKind: TypeAlias = Literal[
    "number", "ratio", "text", "id", "symbol", "currency", "side", "instant", "date", "value", "count"
]
"""How an importer reads the cells of a column."""
Sql: TypeAlias = Literal["bigint", "numeric", "text", "timestamptz"]
"""Type of a column, without its precision."""
SYMBOL: Final = ("ticker", "code", "종목코드", "종목", "심볼")
ACCOUNT: Final = ("계좌", "계좌번호")
MARKET: Final = ("exchange", "시장", "거래소")
CURRENCY: Final = ("ccy", "통화")
UPDATED_AT: Final = ("last updated", "수정일시", "업데이트")
"""Headers of columns that several tables share, in English and Korean."""
_STORED: Final = "stored"
_EMBEDDED: Final = "embedded"


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetColumn:
    """The column of a field in tables that people maintain.

    Attributes:
        kind: How its cells are read.
        headers: Headers that mean this field, besides the field's name.
        required: Whether a table without it is refused.
        blank: Whether a cell of it may be empty.
        default: Whether a setting of the same name (`Defaults`) replaces a missing column or an empty cell.
        losable: Whether a sheet without the column silently drops the value. Otherwise such a sheet refuses every
            value except the default.
    """

    kind: CellKind
    headers: tuple[str, ...] = ()
    required: bool = False
    blank: bool = True
    default: bool = False
    losable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How one field is stored and compared.

    Attributes:
        sql: Type of its column.
        null: Whether the column holds NULL for None.
        inside: The field whose column also holds this one. This field then has no column of its own.
        source: The attribute that holds the stored form; None for the field itself.
        key: Whether it is part of the key of a fill.
        content: Whether a redelivery under the same key must have an equal value.
        compared: Whether a comparison of two data sources compares it. Key fields match the rows instead.
        sheet: Its column in tables that people maintain; None for no column.
    """

    sql: Sql
    null: bool = False
    inside: str | None = None
    source: str | None = None
    key: bool = False
    content: bool = True
    compared: bool = True
    sheet: SheetColumn | None = None


def stored(
    sql: Sql,
    *,
    null: bool = False,
    inside: str | None = None,
    source: str | None = None,
    key: bool = False,
    content: bool = True,
    compared: bool = True,
    sheet: SheetColumn | None = None,
) -> Mapping[str, Stored]:
    """Declare a field. See `Stored`. The result is the `metadata` of a dataclass field."""
    declared = Stored(
        sql=sql,
        null=null,
        inside=inside,
        source=source,
        key=key,
        content=content,
        compared=compared,
        sheet=sheet,
    )
    return MappingProxyType({_STORED: declared})


def sheet_column(
    kind: CellKind,
    *headers: str,
    required: bool = False,
    blank: bool = True,
    default: bool = False,
    losable: bool = False,
) -> SheetColumn:
    """Declare the column of a field in tables that people maintain. See `SheetColumn`."""
    return SheetColumn(kind=kind, headers=headers, required=required, blank=blank, default=default, losable=losable)


def embedded(record: type[Any]) -> Mapping[str, type[Any]]:
    """Declare a field that holds another record. The columns of that record replace the field."""
    return MappingProxyType({_EMBEDDED: record})


def stored_fields(record: type[Any]) -> dict[str, Stored]:
    """Return the declarations of a record in the order of its fields. Those of an embedded record replace its field.

    Raises:
        TypeError: A field has no declaration; the message names it.
    """
    found: dict[str, Stored] = {}
    for one in fields(record):
        if _EMBEDDED in one.metadata:
            found |= stored_fields(one.metadata[_EMBEDDED])
        elif _STORED in one.metadata:
            found[one.name] = one.metadata[_STORED]
        else:
            raise TypeError(f"{record.__name__}.{one.name} does not declare how it is stored")
    return found


def columns_of(record: type[Any]) -> dict[str, Stored]:
    """Return the declarations of the fields that have a column of their own, by the name of the column."""
    return {name: declared for name, declared in stored_fields(record).items() if declared.inside is None}


def compared_fields(record: type[Any]) -> tuple[str, ...]:
    """Return the names of the fields that a comparison of two data sources compares."""
    return tuple(name for name, declared in stored_fields(record).items() if declared.compared)


def sheet_columns(record: type[Any]) -> dict[str, SheetColumn]:
    """Return the columns of a record in tables that people maintain, by the name of the field."""
    return {name: one.sheet for name, one in stored_fields(record).items() if one.sheet is not None}


def defaulted_fields(record: type[Any]) -> tuple[str, ...]:
    """Return the names of the fields for which a setting replaces values that a table does not give."""
    return tuple(name for name, sheet in sheet_columns(record).items() if sheet.default)


def unlosable_fields(record: type[Any]) -> tuple[str, ...]:
    """Return the names of the fields whose value a sheet without their column refuses, unless it is the default."""
    return tuple(name for name, sheet in sheet_columns(record).items() if not (sheet.required or sheet.losable))
