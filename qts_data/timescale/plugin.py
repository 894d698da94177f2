"""The plugin, which Alembic finds by its entry point. Without one, an import in env.py registers it.

Alembic loads it in the middle of its own import, when half of Alembic is not imported yet. Or this package may be
importing Alembic. So Alembic is imported here only when it is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps
    from alembic.runtime.plugins import Plugin
    from alembic.util import PriorityDispatchResult

__all__ = ["PLUGIN_NAME", "setup"]

PLUGIN_NAME: Final = "qts_data.timescale"
"""Its name in `autogenerate_plugins`, and the name of the entry point."""


def setup(plugin: Plugin) -> None:
    """Add the operations to `op`, and compare after the tables, because aggregates read tables. Alembic's hook."""
    from alembic.util import DispatchPriority  # noqa: PLC0415 - see above

    # By name, because it may be the very module that is importing this one.
    importlib.import_module("qts_data.timescale.operations")
    plugin.add_autogenerate_comparator(_compare, "schema", priority=DispatchPriority.LAST)


def _compare(context: AutogenContext, upgrade_ops: UpgradeOps, schemas: set[str | None]) -> PriorityDispatchResult:
    # By name, as above, because the comparison imports Alembic, and its package imports this module.
    comparison = importlib.import_module("qts_data.timescale.autogenerate.comparison")
    result: PriorityDispatchResult = comparison.compare(context, upgrade_ops, schemas)
    return result
