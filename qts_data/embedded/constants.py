"""Names and times of the embedded server."""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType
from typing import Final

ACCOUNT = "qts_postgres"
"""The system account that runs the server when root starts it."""
ROOT_HOME = Path("/var/lib/qts-data")
"""Directory for programs and data that this account could not reach elsewhere."""
MARKER: Final = "qts-data.conf"
"""Name of the settings file, written at every start. A directory that has the file is ours."""
POINTER: Final = "qts-data.location"
SOCKET: Final = ".s.PGSQL.5432"
SETTINGS: Final = MappingProxyType(
    {"max_connections": "100", "shared_buffers": "128MB", "timezone": "UTC", "log_timezone": "UTC"}
)
ENVIRONMENT: Final = MappingProxyType({"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"})
"""Variables of the caller such as PGDATA, PGPORT or LC_ALL must not change the server or its output."""
POLL_SECONDS: Final = 0.02
GRACE_SECONDS = 10.0
