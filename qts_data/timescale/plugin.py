"""The plugin that Alembic finds by its entry point, and that an import in env.py registers where it does not.

Alembic loads it in the middle of its own import, when half of Alembic is not there yet; and it may be this package
that imports Alembic. So nothing of Alembic is imported here before it is needed.
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
"""What `autogenerate_plugins` calls it, and the name of the entry point."""


def setup(plugin: Plugin) -> None:
    """Alembic's hook: give `op` the operations, and compare after the tables, for aggregates stand on tables."""
    from alembic.util import DispatchPriority  # noqa: PLC0415 - see above

    # By name: it may be the very module whose import has brought us here.
    importlib.import_module("qts_data.timescale.operations")
    plugin.add_autogenerate_comparator(_compare, "schema", priority=DispatchPriority.LAST)


def _compare(context: AutogenContext, upgrade_ops: UpgradeOps, schemas: set[str | None]) -> PriorityDispatchResult:
    # By name, as above: the comparison imports Alembic, and its package imports this module.
    comparison = importlib.import_module("qts_data.timescale.autogenerate.comparison")
    result: PriorityDispatchResult = comparison.compare(context, upgrade_ops, schemas)
    return result
