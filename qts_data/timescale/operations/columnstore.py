"""Operations on the columnstore of a hypertable or a continuous aggregate: enable, disable, alter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qts_data.timescale import ddl
from qts_data.timescale.declarations import Columnstore
from qts_data.timescale.edition import Edition, Feature
from qts_data.timescale.operations.base import Safety, TimescaleOp, known, on_op

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["AlterColumnstoreOp", "DisableColumnstoreOp", "EnableColumnstoreOp"]


def _orders(columnstore: Columnstore, prefix: str = "") -> dict[str, Any]:
    return {
        f"{prefix}segment_by": list(columnstore.segment_by),
        f"{prefix}order_by": list(columnstore.order_by),
    }


def _columnstore(segment_by: Sequence[str], order_by: Sequence[str]) -> Columnstore:
    # A declaration has an order; a columnstore made by hand may lack one.
    return Columnstore.of(segment_by=segment_by, order_by=order_by) if order_by else Columnstore(tuple(segment_by), ())


class _ColumnstoreOp(TimescaleOp):
    """Base with `aggregate=True` for a continuous aggregate, whose settings need another statement than a table's."""

    feature: Feature = Feature.COLUMNSTORE

    def __init__(self, name: str, *, aggregate: bool, schema: str | None) -> None:
        super().__init__(name, schema=schema)
        self.aggregate = aggregate

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return {"aggregate": True} if self.aggregate else {}


@on_op
class EnableColumnstoreOp(_ColumnstoreOp):
    """`op.enable_columnstore("tick_data", segment_by=["symbol"], order_by=["time DESC", "source", "seq"])`."""

    function = "enable_columnstore"

    def __init__(
        self,
        name: str,
        *,
        segment_by: Sequence[str],
        order_by: Sequence[str],
        aggregate: bool = False,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, aggregate=aggregate, schema=schema)
        self.columnstore: Columnstore = _columnstore(segment_by, order_by)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return _orders(self.columnstore) | super().arguments()

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield one ALTER TABLE."""
        yield ddl.enable_columnstore(self.name, self.columnstore, aggregate=self.aggregate, schema=self.schema)

    def reverse(self) -> DisableColumnstoreOp:
        """Return to rows, and remember the orders."""
        return DisableColumnstoreOp(
            self.name,
            existing_segment_by=self.columnstore.segment_by,
            existing_order_by=self.columnstore.order_by,
            aggregate=self.aggregate,
            schema=self.schema,
        )


@on_op
class DisableColumnstoreOp(_ColumnstoreOp):
    """`op.disable_columnstore("tick_data")`: converts every chunk back to rows first."""

    function = "disable_columnstore"
    safety = Safety.REBUILD
    reason = "every compressed chunk is written again as rows"

    def __init__(
        self,
        name: str,
        *,
        existing_segment_by: Sequence[str] | None = None,
        existing_order_by: Sequence[str] | None = None,
        aggregate: bool = False,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, aggregate=aggregate, schema=schema)
        self.existing: Columnstore | None = (
            None if existing_order_by is None else _columnstore(existing_segment_by or (), existing_order_by)
        )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return ({} if self.existing is None else _orders(self.existing, "existing_")) | super().arguments()

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Convert, then disable."""
        return ddl.disable_columnstore(self.name, aggregate=self.aggregate, schema=self.schema)

    def reverse(self) -> EnableColumnstoreOp:
        """Enable it again, if its former orders are known."""
        existing = known(self.existing, self)
        return EnableColumnstoreOp(
            self.name,
            segment_by=existing.segment_by,
            order_by=existing.order_by,
            aggregate=self.aggregate,
            schema=self.schema,
        )


@on_op
class AlterColumnstoreOp(_ColumnstoreOp):
    """Other orders: `op.alter_columnstore("tick_data", segment_by=[...], order_by=[...], existing_...)`."""

    function = "alter_columnstore"
    safety = Safety.NEEDS_RECOMPRESS
    reason = "compressed chunks keep the old orders until they are converted again"

    def __init__(
        self,
        name: str,
        *,
        segment_by: Sequence[str],
        order_by: Sequence[str],
        existing_segment_by: Sequence[str],
        existing_order_by: Sequence[str],
        aggregate: bool = False,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, aggregate=aggregate, schema=schema)
        self.columnstore: Columnstore = _columnstore(segment_by, order_by)
        self.existing: Columnstore = _columnstore(existing_segment_by, existing_order_by)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return _orders(self.columnstore) | _orders(self.existing, "existing_") | super().arguments()

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield one ALTER TABLE."""
        yield ddl.enable_columnstore(self.name, self.columnstore, aggregate=self.aggregate, schema=self.schema)

    def reverse(self) -> AlterColumnstoreOp:
        """Return the opposite change."""
        return AlterColumnstoreOp(
            self.name,
            **_orders(self.existing),
            **_orders(self.columnstore, "existing_"),
            aggregate=self.aggregate,
            schema=self.schema,
        )
