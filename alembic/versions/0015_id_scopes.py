"""Scopes of execution ids, one for each broker.

Revision ID: 0015
Revises: 0014
Create Date: 2026-11-29

The table is filled from the ledger, which is read once. If a broker's fills have several scopes, the newest one
counts. The downgrade drops the table; the stored ids contain their scopes as before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "id_scopes",
        sa.Column("broker", sa.Text(), nullable=False, comment="Broker or exchange whose execution ids restart"),
        sa.Column(
            "scope", sa.Text(), nullable=False, comment="Kinds of the scope, such as day,symbol; divided by commas"
        ),
        sa.PrimaryKeyConstraint("broker", name=op.f("pk_id_scopes")),
        comment="Scopes of execution ids; a fill in another scope than its broker's is refused",
    )
    op.execute(
        "INSERT INTO id_scopes (broker, scope) "
        "SELECT DISTINCT ON (broker) broker, regexp_replace(substring(execution_id FROM '^scope:([^/]+)/'), "
        "'=[^,]*', '', 'g') FROM t_ledger "
        "WHERE execution_id LIKE 'scope:%/%' AND reverses_id IS NULL ORDER BY broker, id DESC"
    )


def downgrade() -> None:
    op.drop_table("id_scopes")
