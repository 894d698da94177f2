"""Alembic's autogenerate for TimescaleDB: from changed declarations to operations, and from operations to Python.

Where the distribution is installed, naming the plugin in `context.configure` is enough:

    context.configure(..., autogenerate_plugins=["alembic.autogenerate.*", "qts_data.timescale"])

In a source tree that is not installed, Alembic sees no entry point; then env.py imports this module, too. Both at
once do no harm.

What an edition does not have compares as what stands in for it there: a continuous aggregate as its plain view, the
rest not at all. A new table gets its operations on every edition, because the migration will run on others, too.

Filters: `include_name` and `include_object` are asked with the type names "hypertable" and "continuous_aggregate" and
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
    """An `include_name` for `include_schemas=True`, which else proposes to drop the extension's own tables."""
    return not (kind == "schema" and name is not None and name.startswith(("_timescaledb_", "timescaledb_")))


def _register() -> None:
    try:
        made = Plugin(PLUGIN_NAME)
    except ValueError:
        return  # the entry point came first
    plugin.setup(made)


_register()
