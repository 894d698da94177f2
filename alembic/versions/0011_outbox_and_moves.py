"""The outbox for another data source, and the move away from one.

Revision ID: 0011
Revises: 0010
Create Date: 2026-11-21

New tables, and a trigger on t_ledger: CREATE TRIGGER waits for running writers, and new writers wait for it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


FEED_FUNCTION = """\
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

FEED_TRIGGER = """\
CREATE TRIGGER t_ledger_feed AFTER INSERT ON t_ledger REFERENCING NEW TABLE AS entries
    FOR EACH STATEMENT EXECUTE FUNCTION t_ledger_feed_outbox()"""


def text(name: str, comment: str, **options: object) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), nullable=False, comment=comment, **options)


def count(name: str, comment: str, **options: object) -> sa.Column[object]:
    return sa.Column(name, sa.BigInteger(), nullable=False, comment=comment, **options)


def instant(name: str, comment: str, *, nullable: bool = False, **options: object) -> sa.Column[object]:
    return sa.Column(name, sa.TIMESTAMP(timezone=True), nullable=nullable, comment=comment, **options)


def upgrade() -> None:
    op.create_table(
        "outbox_destinations",
        text("name", "Name of the data source, such as sheets"),
        sa.Column("active", sa.Boolean(), nullable=False, comment="Whether new fills are put into the outbox for it"),
        instant("until", "When that ends by itself; NULL for never", nullable=True),
        count("delivered", "Messages that were delivered so far", server_default="0"),
        instant("delivered_at", "When the last one was", nullable=True),
        count("failures", "Attempts that failed since then", server_default="0"),
        sa.Column("last_error", sa.Text(), comment="Why the last of them failed"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_outbox_destinations")),
        comment="Data sources that are fed with what is booked here",
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order of delivery"),
        text("destination", "Data source that it is for"),
        text("kind", "fill: an entry of the ledger; position: a new valuation"),
        text("account", "Account that it is about"),
        text("symbol", "Instrument, 1 to 64 characters"),
        sa.Column("ledger_id", sa.BigInteger(), comment="The entry of t_ledger, which never changes"),
        text("state", "pending, or dead: refused too often, and holds up those behind it", server_default="pending"),
        count("attempts", "How often it was refused", server_default="0"),
        instant("next_attempt_at", "Not before this", server_default=sa.text("now()")),
        sa.Column("last_error", sa.Text(), comment="Why it was refused the last time"),
        instant("created_at", "When it was booked", server_default=sa.text("now()")),
        sa.CheckConstraint("kind IN ('fill', 'position')", name=op.f("ck_outbox_kind")),
        sa.CheckConstraint("(kind = 'fill') = (ledger_id IS NOT NULL)", name=op.f("ck_outbox_fill_has_its_entry")),
        sa.CheckConstraint("state IN ('pending', 'dead')", name=op.f("ck_outbox_state")),
        sa.CheckConstraint("length(symbol) BETWEEN 1 AND 64", name=op.f("ck_outbox_symbol_length")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        comment="What data sources have still to be told, in order for each account and symbol",
    )
    op.create_index(
        "ix_outbox_refused",
        "outbox",
        ["destination", "account", "symbol"],
        postgresql_where=sa.text("attempts > 0"),
    )
    op.create_table(
        "source_moves",
        text("source", "Name of the data source, such as sheets"),
        text("phase", "copy, copied, shadow, cutover or rolled_back"),
        instant("phase_since", "When the phase began", server_default=sa.text("now()")),
        instant("rollback_until", "After a cutover: when the way back closes", nullable=True),
        sa.CheckConstraint(
            "phase IN ('copy', 'copied', 'shadow', 'cutover', 'rolled_back')", name=op.f("ck_source_moves_phase")
        ),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_source_moves")),
        comment="Moves from another data source to this database, one row for each source",
    )
    op.create_table(
        "source_move_checkpoints",
        text("source", "Name of the data source"),
        text("kind", "What is copied, such as ledger"),
        count("rows_done", "Rows that are in"),
        count("rows_total", "Rows that the source had"),
        text("digest", "Of the rows that are in: if they change, the copy begins anew"),
        instant("updated_at", "When the row last changed", server_default=sa.text("now()")),
        sa.CheckConstraint(
            "rows_done >= 0 AND rows_total >= rows_done", name=op.f("ck_source_move_checkpoints_rows_done_of_total")
        ),
        sa.ForeignKeyConstraint(["source"], ["source_moves.source"], name="fk_source_move_checkpoints_source"),
        sa.PrimaryKeyConstraint("source", "kind", name=op.f("pk_source_move_checkpoints")),
        comment="How far each table of a source is copied; written in the transaction of the rows",
    )
    op.create_table(
        "source_move_verifications",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order of the comparisons"),
        text("source", "Name of the data source"),
        instant("verified_at", "When it ended", server_default=sa.text("now()")),
        count("mismatches", "Differences that it found"),
        sa.Column("report", sa.JSON(), nullable=False, comment="The report"),
        sa.ForeignKeyConstraint(["source"], ["source_moves.source"], name="fk_source_move_verifications_source"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source_move_verifications")),
        comment="Comparisons of a data source with this database, and what they found",
    )
    op.create_index("ix_source_move_verifications_source", "source_move_verifications", ["source", sa.text("id DESC")])
    op.execute(FEED_FUNCTION)
    op.execute("COMMENT ON FUNCTION t_ledger_feed_outbox() IS 'Puts new entries of t_ledger into outbox'")
    op.execute(FEED_TRIGGER)
    op.execute("COMMENT ON TRIGGER t_ledger_feed ON t_ledger IS 'Feeds outbox'")


def downgrade() -> None:
    op.execute("DROP TRIGGER t_ledger_feed ON t_ledger")
    op.execute("DROP FUNCTION t_ledger_feed_outbox()")
    op.drop_table("source_move_verifications")
    op.drop_table("source_move_checkpoints")
    op.drop_table("source_moves")
    op.drop_table("outbox")
    op.drop_table("outbox_destinations")
