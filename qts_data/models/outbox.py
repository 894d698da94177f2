"""The outbox: messages that another data source must still receive, written in the transaction of their cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base, Instant, symbol_length
from qts_data.models.ledger import LedgerEntry

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FEED_STATEMENTS", "OutboxDestination", "OutboxMessage"]


class OutboxDestination(Base):
    """A data source that receives the entries booked here."""

    __tablename__ = "outbox_destinations"
    __table_args__: Any = ({"comment": "Data sources that receive the entries booked here"},)

    name: Mapped[str] = mapped_column(primary_key=True, comment="Name of the data source, such as sheets")
    active: Mapped[bool] = mapped_column(comment="Whether new fills are put into the outbox for it")
    until: Mapped[Instant | None] = mapped_column(comment="End of the time in which they are; NULL for no end")
    delivered: Mapped[int] = mapped_column(server_default="0", comment="Messages that were delivered so far")
    delivered_at: Mapped[Instant | None] = mapped_column(comment="Time of the last delivery")
    failures: Mapped[int] = mapped_column(server_default="0", comment="Failed attempts since the last delivery")
    last_error: Mapped[str | None] = mapped_column(comment="Error of the last failed attempt")


class OutboxMessage(Base):
    """One message to deliver. Its row is deleted after delivery.

    Every fill pays for these columns. So there is neither a foreign key nor an index that only the worker would use.
    """

    __tablename__ = "outbox"
    __table_args__: Any = (
        symbol_length(),
        sa.CheckConstraint("kind IN ('fill', 'position')", name="kind"),
        sa.CheckConstraint("(kind = 'fill') = (ledger_id IS NOT NULL)", name="fill_has_its_entry"),
        sa.CheckConstraint("state IN ('pending', 'dead')", name="state"),
        sa.Index("ix_outbox_refused", "destination", "account", "symbol", postgresql_where=sa.text("attempts > 0")),
        {"comment": "Messages that data sources must still receive, in order for each account and symbol"},
    )

    id: Mapped[int] = mapped_column(sa.Identity(always=True), primary_key=True, comment="Order of delivery")
    destination: Mapped[str] = mapped_column(comment="Data source that it is for")
    kind: Mapped[str] = mapped_column(comment="fill: an entry of the ledger; position: a new valuation")
    account: Mapped[str] = mapped_column(comment="Account that it is about")
    symbol: Mapped[str] = mapped_column(comment="Instrument, 1 to 64 characters")
    ledger_id: Mapped[int | None] = mapped_column(comment="The entry of t_ledger, which never changes")
    state: Mapped[str] = mapped_column(
        server_default="pending", comment="pending, or dead: refused too often, and holds up those behind it"
    )
    attempts: Mapped[int] = mapped_column(server_default="0", comment="How often it was refused")
    next_attempt_at: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="Not before this")
    last_error: Mapped[str | None] = mapped_column(comment="Why it was refused the last time")
    created_at: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="When it was booked")


FEED_FUNCTION: Final = """\
CREATE FUNCTION t_ledger_feed_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (destination, kind, account, symbol, ledger_id)
    SELECT d.name, 'fill', e.account, e.symbol, e.id
      FROM outbox_destinations AS d CROSS JOIN entries AS e
     WHERE d.active AND (d.until IS NULL OR d.until > now())
     ORDER BY e.id;
    RETURN NULL;
END
$$"""
"""A trigger, so that every insert into the ledger writes its message."""

FEED_STATEMENTS: Final = (
    FEED_FUNCTION,
    "COMMENT ON FUNCTION t_ledger_feed_outbox() IS 'Puts new entries of t_ledger into outbox'",
    """\
CREATE TRIGGER t_ledger_feed AFTER INSERT ON t_ledger REFERENCING NEW TABLE AS entries
    FOR EACH STATEMENT EXECUTE FUNCTION t_ledger_feed_outbox()""",
    "COMMENT ON TRIGGER t_ledger_feed ON t_ledger IS 'Feeds outbox'",
)
_FED: Final = {LedgerEntry.__table__, OutboxDestination.__table__, OutboxMessage.__table__}


@event.listens_for(Base.metadata, "after_create")
def _create_feed(_target: sa.MetaData, connection: sa.Connection, tables: Sequence[sa.Table] = (), **_: object) -> None:
    if set(tables) >= _FED:
        for statement in FEED_STATEMENTS:
            connection.exec_driver_sql(statement.replace("%", "%%"))


@event.listens_for(Base.metadata, "after_drop")
def _drop_feed(_target: sa.MetaData, connection: sa.Connection, tables: Sequence[sa.Table] = (), **_: object) -> None:
    if set(tables) >= _FED:
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS t_ledger_feed_outbox()")
