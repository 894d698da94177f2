"""TimescaleDB for SQLAlchemy and Alembic: declarations beside the models, operations in the migrations.

It imports nothing else of this distribution, so another project can use it unchanged. Importing it registers
`timescaledb+psycopg://` URLs and lets `metadata.create_all()` build the declared objects. Once it is installed,
Alembic finds its plugin by the entry point, and the plugin adds the operations to `op`.
"""

from qts_data.timescale import create_all as _create_all  # noqa: F401 - metadata.create_all() learns the declarations
from qts_data.timescale.declarations import (
    AggregateIndex,
    Columnstore,
    ContinuousAggregate,
    Declarations,
    Hypertable,
    RefreshPolicy,
    continuous_aggregate,
    declarations_of,
    dropped_continuous_aggregate,
    hypertable,
)
from qts_data.timescale.dialect import register as _register_dialects
from qts_data.timescale.edition import Edition, Feature, Server, probe, require_supported
from qts_data.timescale.errors import DeclarationError, ServerNotSupported, TimescaleError
from qts_data.timescale.functions import time_bucket
from qts_data.timescale.intervals import Interval

__all__ = [
    "AggregateIndex",
    "Columnstore",
    "ContinuousAggregate",
    "DeclarationError",
    "Declarations",
    "Edition",
    "Feature",
    "Hypertable",
    "Interval",
    "RefreshPolicy",
    "Server",
    "ServerNotSupported",
    "TimescaleError",
    "continuous_aggregate",
    "declarations_of",
    "dropped_continuous_aggregate",
    "hypertable",
    "probe",
    "require_supported",
    "time_bucket",
]

_register_dialects()
