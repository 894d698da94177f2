"""Market data: ticks that are kept for ever, loaded batches, ticks of a day, explained gaps.

Revision ID: 0010
Revises: 0009
Create Date: 2026-11-21
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def instant(name: str, comment: str, *, nullable: bool = False, **options: object) -> sa.Column[object]:
    return sa.Column(name, sa.TIMESTAMP(timezone=True), nullable=nullable, comment=comment, **options)


def count(name: str, comment: str) -> sa.Column[object]:
    return sa.Column(name, sa.BigInteger(), nullable=False, comment=comment)


def text(name: str, comment: str, **options: object) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), nullable=False, comment=comment, **options)


# Counts the stored ticks, for databases that contained ticks before these tables existed.
COUNT_STORED_TICKS = """
INSERT INTO tick_days (relation, symbol, source, day, chunk, ticks, first_time, last_time)
SELECT 'tick_data', t.symbol, t.source, CAST(t.time AT TIME ZONE 'UTC' AS date), c.relname,
       count(*), min(t.time), max(t.time)
  FROM tick_data AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tableoid
 GROUP BY 2, 3, 4, 5
"""


def upgrade() -> None:
    op.create_table(
        "tick_history",
        text("symbol", "Instrument, 1 to 64 characters"),
        instant("time", "When the trade happened"),
        text("source", "Feed that sent it; '' for the only one", server_default=""),
        sa.Column(
            "seq",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="The feed's sequence number, else the ordinal among the ticks of the same symbol, time and source",
        ),
        sa.Column("price", sa.Numeric(18, 8), nullable=False, comment="Trade price in the symbol's quote currency"),
        sa.Column("volume", sa.Numeric(28, 8), nullable=False, comment="Traded quantity, zero or more"),
        sa.Column("bid", sa.Numeric(18, 8), nullable=True, comment="Best bid at the trade, if known"),
        sa.Column("ask", sa.Numeric(18, 8), nullable=True, comment="Best ask at the trade, if known"),
        sa.CheckConstraint("ask <> 'NaN'", name=op.f("ck_tick_history_ask_finite")),
        sa.CheckConstraint("bid <> 'NaN'", name=op.f("ck_tick_history_bid_finite")),
        sa.CheckConstraint("price <> 'NaN'", name=op.f("ck_tick_history_price_finite")),
        sa.CheckConstraint("volume <> 'NaN'", name=op.f("ck_tick_history_volume_finite")),
        sa.CheckConstraint("length(symbol) BETWEEN 1 AND 64", name=op.f("ck_tick_history_symbol_length")),
        sa.CheckConstraint("length(source) <= 64", name=op.f("ck_tick_history_source_length")),
        sa.CheckConstraint("volume >= 0", name=op.f("ck_tick_history_volume_not_negative")),
        sa.PrimaryKeyConstraint("symbol", "time", "source", "seq", name=op.f("pk_tick_history")),
        comment="Trades that are kept for ever; the same columns as tick_data, without retention",
    )
    op.create_hypertable("tick_history", time="time", chunk_interval="7 days")
    op.enable_columnstore("tick_history", segment_by=["symbol"], order_by=["time DESC", "source", "seq"])
    op.add_columnstore_policy("tick_history", after="7 days")
    op.create_table(
        "ingest_batches",
        text("relation", "Table that the ticks are in, tick_data or tick_history"),
        text("stream", "What the batch is a part of: the digest of a file, a feed, a writer"),
        sa.Column(
            "part",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="Offset of the batch in its stream; 0 for a whole",
        ),
        count("received", "Ticks that were handed over"),
        count("inserted", "Ticks that were new"),
        count("duplicate", "Ticks that were there already"),
        count("late", "Inserted ticks of a minute before the last one stored of the symbol"),
        count("rejected", "Rows that were refused"),
        instant("first_time", "Time of the earliest tick", nullable=True),
        instant("last_time", "Time of the latest tick", nullable=True),
        instant("recorded_at", "When it was last loaded", server_default=sa.text("now()")),
        sa.CheckConstraint("part >= 0", name=op.f("ck_ingest_batches_part_not_negative")),
        sa.CheckConstraint("received >= inserted + duplicate", name=op.f("ck_ingest_batches_received_is_the_most")),
        sa.PrimaryKeyConstraint("relation", "stream", "part", name=op.f("pk_ingest_batches")),
        comment="Batches of ticks that are loaded; a batch that is here is not loaded again",
    )
    op.create_table(
        "tick_days",
        text("relation", "Table that the ticks are in, tick_data or tick_history"),
        text("symbol", "Instrument, 1 to 64 characters"),
        text("source", "Feed that sent them"),
        sa.Column("day", sa.Date(), nullable=False, comment="Day in UTC"),
        text("chunk", "Name of the chunk that holds them, or of the table where it has none"),
        count("ticks", "Number of ticks"),
        instant("first_time", "Time of the earliest tick"),
        instant("last_time", "Time of the latest tick"),
        sa.CheckConstraint("length(symbol) BETWEEN 1 AND 64", name=op.f("ck_tick_days_symbol_length")),
        sa.CheckConstraint("ticks > 0", name=op.f("ck_tick_days_ticks_positive")),
        sa.PrimaryKeyConstraint("relation", "symbol", "source", "day", name=op.f("pk_tick_days")),
        comment="Ticks of each symbol, feed and UTC day; every load keeps it in its transaction. A row whose "
        "chunk is no more counts for nothing",
    )
    op.create_table(
        "signed_off_gaps",
        text("symbol", "Instrument, 1 to 64 characters"),
        text("source", "Feed that has the gap; '*' for all feeds together"),
        instant("start_time", "Start of the gap"),
        instant("end_time", "End of the gap, exclusive"),
        text("reason", "Why nothing is there"),
        text("signed_off_by", "Who looked at it", server_default=sa.text("CURRENT_USER")),
        instant("signed_off_at", "When it was signed off", server_default=sa.text("now()")),
        sa.CheckConstraint("length(symbol) BETWEEN 1 AND 64", name=op.f("ck_signed_off_gaps_symbol_length")),
        sa.CheckConstraint("start_time < end_time", name=op.f("ck_signed_off_gaps_start_before_end")),
        sa.CheckConstraint("length(reason) >= 1", name=op.f("ck_signed_off_gaps_reason_given")),
        sa.PrimaryKeyConstraint("symbol", "source", "start_time", name=op.f("pk_signed_off_gaps")),
        comment="Gaps in the market data that are known and explained; they are no longer reported",
    )
    op.execute(COUNT_STORED_TICKS)


def downgrade() -> None:
    op.drop_table("signed_off_gaps")
    op.drop_table("tick_days")
    op.drop_table("ingest_batches")
    op.drop_table("tick_history")
