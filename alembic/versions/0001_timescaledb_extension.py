"""The TimescaleDB extension, where the server offers it.

Revision ID: 0001
Revises:
Create Date: 2026-11-21
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_timescaledb_extension()


def downgrade() -> None:
    # The extension stays: it may serve other schemas of the database, and dropping it drops their data.
    pass
