"""Comments of tables and columns in plain words.

Revision ID: 0016
Revises: 0015
Create Date: 2026-11-29

Only comments change, and the hint of the error that keeps `t_ledger` append-only. No row is read or written. The way
back restores the former words.
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# The object, its former comment, its new one.
COMMENTS = (
    (
        "COLUMN t_ledger.reverses_id",
        "id of the entry that this one takes back, if it is a bust",
        "id of the entry that this one reverses, if it is a bust",
    ),
    (
        "COLUMN t_ledger.corrects_id",
        "id of the entry whose place this one takes, if it is a correction",
        "id of the entry that this one replaces, if it is a correction",
    ),
    (
        "COLUMN positions.avg_price",
        "Average entry price of what is held, in currency; 0 when closed",
        "Average entry price of the position, in currency; 0 when closed",
    ),
    (
        "COLUMN positions.cost_basis",
        (
            "Signed cost of what is held, in currency: paid for a long, below zero received for a short; "
            "kept beside avg_price, whose rounding would let money leak"
        ),
        (
            "Signed cost of the position, in currency: paid for a long, below zero received for a short; "
            "kept beside avg_price, whose rounding would let money leak"
        ),
    ),
    (
        "TABLE pending_reports",
        "Busts and corrections that came before their fill; applied, and gone from here, when it comes",
        "Busts and corrections that arrived before their fill; its booking applies and removes them",
    ),
    (
        "COLUMN pending_reports.refers_to",
        "Execution id of the fill that it takes back or corrects",
        "Execution id of the fill that it reverses or corrects",
    ),
    (
        "COLUMN pending_reports.timestamp",
        "When the broker took it back, or the corrected time of the fill",
        "When the broker busted the fill, or the corrected time of the fill",
    ),
    (
        "TABLE tick_days",
        (
            "Ticks of each symbol, feed and UTC day; every load keeps it in its transaction. A row whose chunk is "
            "no more counts for nothing"
        ),
        (
            "Ticks of each symbol, feed and UTC day; every load keeps it in its transaction. A row whose chunk was "
            "dropped does not count"
        ),
    ),
    (
        "TABLE outbox_destinations",
        "Data sources that are fed with what is booked here",
        "Data sources that receive the entries booked here",
    ),
    (
        "COLUMN outbox_destinations.until",
        "When that ends by itself; NULL for never",
        "End of the time in which they are; NULL for no end",
    ),
    ("COLUMN outbox_destinations.delivered_at", "When the last one was", "Time of the last delivery"),
    (
        "COLUMN outbox_destinations.failures",
        "Attempts that failed since then",
        "Failed attempts since the last delivery",
    ),
    ("COLUMN outbox_destinations.last_error", "Why the last of them failed", "Error of the last failed attempt"),
    (
        "TABLE outbox",
        "What data sources have still to be told, in order for each account and symbol",
        "Messages that data sources must still receive, in order for each account and symbol",
    ),
    (
        "COLUMN source_move_checkpoints.kind",
        "What is copied, such as ledger",
        "Kind of the copied rows, such as ledger",
    ),
    ("COLUMN source_move_checkpoints.rows_done", "Rows that are in", "Rows copied so far"),
    (
        "COLUMN source_move_checkpoints.digest",
        "Of the rows that are in: if they change, the copy begins anew",
        "Digest of the copied rows; if they change, the copy starts again",
    ),
)

OLD_HINT = "Book a reversing entry that names the one it takes back."
NEW_HINT = "Book an entry that reverses it, and names it."


def upgrade() -> None:
    """Write the new words."""
    for target, _, comment in COMMENTS:
        _comment(target, comment)
    _refuse_change(NEW_HINT)


def downgrade() -> None:
    """Write the former words."""
    _refuse_change(OLD_HINT)
    for target, comment, _ in COMMENTS:
        _comment(target, comment)


def _comment(target: str, comment: str) -> None:
    op.execute(f"COMMENT ON {target} IS '{comment}'")


def _refuse_change(hint: str) -> None:
    op.execute(
        f"""\
CREATE OR REPLACE FUNCTION t_ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 't_ledger is append-only: % is refused', TG_OP
        USING ERRCODE = 'restrict_violation',
              HINT = '{hint}';
END
$$"""
    )
