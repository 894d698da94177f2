"""Alembic's autogenerate for TimescaleDB: from changed declarations to operations, and from operations to Python.

Where the distribution is installed, naming the plugin in `context.configure` is enough:

    context.configure(..., autogenerate_plugins=["alembic.autogenerate.*", "qts_data.timescale"])

In a source tree that is not installed, Alembic sees no entry point. Then env.py must import this module, too. Doing
both is harmless.

If the edition lacks a feature, its stand-in is compared: a continuous aggregate as its plain view. Other missing
features are not compared. A new table gets its operations on every edition, because the migration runs on others, too.

Filters: `include_name` and `include_object` are called with the type names "hypertable" and "continuous_aggregate" and
the declaration as the object.
"""

from __future__ import annotations

from alembic.runtime.plugins import Plugin

import qts_data.timescale.operations  # noqa: F401 - `op` gets them
from qts_data.timescale import plugin
from qts_data.timescale.autogenerate import rendering as _rendering  # noqa: F401 - Alembic learns to write them
from qts_data.timescale.autogenerate.comparison import compare
from qts_data.timescale.plugin import PLUGIN_NAME

__all__ = ["PLUGIN_NAME", "compare", "hide_internal_schemas"]


def hide_internal_schemas(name: str | None, kind: str, _parents: object) -> bool:
    """Exclude the extension's own schemas, as `include_name` for `include_schemas=True`.

    Without it, autogenerate proposes to drop the extension's own tables.
    """
    return not (kind == "schema" and name is not None and name.startswith(("_timescaledb_", "timescaledb_")))


def _register() -> None:
    try:
        made = Plugin(PLUGIN_NAME)
    except ValueError:
        return  # the entry point came first
    plugin.setup(made)


_register()
