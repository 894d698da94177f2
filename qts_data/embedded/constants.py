"""Names and times of the embedded server."""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType
from typing import Final

ACCOUNT = "qts_postgres"
"""The system account that runs the server where root starts it."""
ROOT_HOME = Path("/var/lib/qts-data")
"""Where copies of the programs, and data, live that this account could not reach elsewhere."""
MARKER: Final = "qts-data.conf"
"""The settings, written at every start; a directory that has the file is ours."""
POINTER: Final = "qts-data.location"
SOCKET: Final = ".s.PGSQL.5432"
SETTINGS: Final = MappingProxyType(
    {"max_connections": "100", "shared_buffers": "128MB", "timezone": "UTC", "log_timezone": "UTC"}
)
ENVIRONMENT: Final = MappingProxyType({"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"})
"""Nothing in the caller's environment (PGDATA, PGPORT, LC_ALL) may change what the server does or prints."""
POLL_SECONDS: Final = 0.02
GRACE_SECONDS = 10.0
