"""The declarative base, naming rules, and the column types of money, quantities and instants."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, mapped_column

__all__ = ["Amount", "Base", "Instant", "Price", "Quantity", "finite", "symbol_length"]

NAMING_CONVENTION: Final = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}

Instant = Annotated[dt.datetime, mapped_column(sa.TIMESTAMP(timezone=True))]
"""An aware instant. TIMESTAMPTZ."""
Price = Annotated[Decimal, mapped_column(sa.Numeric(18, 8))]
"""A price, or a signed position: 10 digits before the point, 8 after it."""
Quantity = Annotated[Decimal, mapped_column(sa.Numeric(28, 8))]
"""A traded volume: 20 digits before the point, 8 after it."""
Amount = Annotated[Decimal, mapped_column(sa.Numeric(24, 8))]
"""Money: 16 digits before the point, 8 after it."""


class Base(DeclarativeBase):
    """Base of every model. Alembic compares its `metadata`, and the declarations are attached to it."""

    metadata: ClassVar[sa.MetaData] = sa.MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, sa.types.TypeEngine[Any]]] = {
        str: sa.Text(),
        int: sa.BigInteger(),
    }


def symbol_length() -> sa.CheckConstraint:
    """Return a CHECK that symbols have 1 to 64 characters. The type is TEXT: VARCHAR(n) refuses long option symbols."""
    return sa.CheckConstraint("length(symbol) BETWEEN 1 AND 64", name="symbol_length")


def finite(*columns: str) -> tuple[sa.CheckConstraint, ...]:
    """Return CHECKs against 'NaN': NUMERIC accepts it, and NaN exceeds every number. It would pass `qty > 0`."""
    return tuple(sa.CheckConstraint(f"{column} <> 'NaN'", name=f"{column}_finite") for column in columns)
