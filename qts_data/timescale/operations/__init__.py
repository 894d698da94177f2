"""TimescaleDB operations for Alembic migrations.

Importing this module adds the operations below to `op`, in every migration of the process. Each operation does the
part that the server's edition supports. It reports the rest by a line in Alembic's log, and a comment in offline SQL.
Offline (`alembic upgrade --sql`) the edition comes from `context.configure(timescale_edition=...)`.

The interval arguments are texts such as `"7 days"`; a table's schema is the keyword `schema`. Arguments `existing...`
are used only by the downgrade.

An operation that would destroy data raises, unless the migration passes `allow_data_loss=True` or the whole run is
configured with `timescale_allow_data_loss=True`. Offline mode cannot check, so nothing raises there.
"""

from qts_data.timescale.operations.age_policies import (
    AddColumnstorePolicyOp,
    AddRetentionPolicyOp,
    AlterColumnstorePolicyOp,
    AlterRetentionPolicyOp,
    RemoveColumnstorePolicyOp,
    RemoveRetentionPolicyOp,
)
from qts_data.timescale.operations.aggregates import (
    AlterContinuousAggregateOp,
    AppendAggregateColumnsOp,
    CommentOnAggregateOp,
    CreateContinuousAggregateOp,
    DropContinuousAggregateOp,
)
from qts_data.timescale.operations.base import (
    CreateExtensionOp,
    Group,
    Safety,
    TimescaleOp,
    migration_server,
)
from qts_data.timescale.operations.columnstore import (
    AlterColumnstoreOp,
    DisableColumnstoreOp,
    EnableColumnstoreOp,
)
from qts_data.timescale.operations.hypertables import (
    CreateHypertableOp,
    ReleaseHypertableOp,
    RevertHypertableOp,
    SetChunkIntervalOp,
)
from qts_data.timescale.operations.policies import (
    AddRefreshPolicyOp,
    AddReorderPolicyOp,
    AlterRefreshPolicyOp,
    AlterReorderPolicyOp,
    RemoveRefreshPolicyOp,
    RemoveReorderPolicyOp,
)

__all__ = [
    "AddColumnstorePolicyOp",
    "AddRefreshPolicyOp",
    "AddReorderPolicyOp",
    "AddRetentionPolicyOp",
    "AlterColumnstoreOp",
    "AlterColumnstorePolicyOp",
    "AlterContinuousAggregateOp",
    "AlterRefreshPolicyOp",
    "AlterReorderPolicyOp",
    "AlterRetentionPolicyOp",
    "AppendAggregateColumnsOp",
    "CommentOnAggregateOp",
    "CreateContinuousAggregateOp",
    "CreateExtensionOp",
    "CreateHypertableOp",
    "DisableColumnstoreOp",
    "DropContinuousAggregateOp",
    "EnableColumnstoreOp",
    "Group",
    "ReleaseHypertableOp",
    "RemoveColumnstorePolicyOp",
    "RemoveRefreshPolicyOp",
    "RemoveReorderPolicyOp",
    "RemoveRetentionPolicyOp",
    "RevertHypertableOp",
    "Safety",
    "SetChunkIntervalOp",
    "TimescaleOp",
    "migration_server",
]
