"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

Before merging:
* Names are quoted in full and import nothing from qts_data: history must not change when code does.
* The lock timeout is five seconds by default: all later statements queue behind one that waits for a lock.
  Take the strongest locks last, and touch one big table in a migration.
* NOT NULL or CHECK on a big table: ADD CONSTRAINT ... NOT VALID first, VALIDATE CONSTRAINT in the next migration.
* Indexes of ordinary tables that are in use: CREATE INDEX CONCURRENTLY in an autocommit_block. Hypertables have none:
  there, create them with timescaledb.transaction_per_chunk.
* A unique key of a hypertable contains its time column. No foreign key leads to a hypertable from another one.
* Columns of compressed chunks take no new type and no volatile default; columns under a continuous aggregate no new
  type at all.
* An aggregate's refresh never reaches beyond the retention of its source: it would delete bars silently.
* Every table and column has a comment. Every CHECK has a name.
* The downgrade is real: it runs, and its docstring names the data that it cannot restore.
* It runs on all three editions: use op.create_hypertable and its siblings, which adapt to the edition.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
