"""The comment of ingest_batches.late has the definition of late ticks in use.

Revision ID: 0014
Revises: 0013
Create Date: 2026-11-29

A comment only; no row is read or written.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

OLD = "Inserted ticks of a minute before the last one stored of the symbol"
NEW = "Inserted ticks of bars over at the end of the load; before it, the feed had a tick in or after the bar"


def upgrade() -> None:
    """Write the new comment."""
    op.alter_column(
        "ingest_batches",
        "late",
        existing_type=sa.BigInteger(),
        existing_nullable=False,
        existing_comment=OLD,
        comment=NEW,
    )


def downgrade() -> None:
    """Write the old comment."""
    op.alter_column(
        "ingest_batches",
        "late",
        existing_type=sa.BigInteger(),
        existing_nullable=False,
        existing_comment=NEW,
        comment=OLD,
    )
