"""The composition root: settings in, connected parts out. Nothing else reads the environment."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import sqlalchemy as sa

from qts_data.adapters import DataSourceAdapter, GoogleSheetsAdapter, HybridAdapter, TimescaleDBAdapter
from qts_data.operations.csv_files import CsvImportReport, CsvKind, CsvMapping, import_csv
from qts_data.moving import Move
from qts_data.contracts import CacheConfig, CacheType, RiskLimits, SafetyState, StrategyParameters
from qts_data.rules.fill_identity import FillIdentity
from qts_data.contracts.instants import utc_fields
from qts_data.contracts.leniency import allow_any_time, any_time_allowed
from qts_data.database import migrations, roles
from qts_data.embedded import EmbeddedServer
from qts_data.database.engine import DatabaseConfig, async_engine, engine, parse_url
from qts_data.database.errors import translated_errors
from qts_data.errors import ConfigurationError, InvalidRecord, SchemaMismatch
from qts_data.importers import ReadOptions, bar_length, read_file, with_symbol
from qts_data.importers.tables import Defaults
from qts_data.importers.rows import Refuse
from qts_data.models import PRIVILEGE_STATEMENTS, VIEWS, Base
from qts_data.models.views import trading_zone_statements
from qts_data.repositories import (BarReads, BatchId, Database, IngestReport, RefreshReport, TickRepository, UpsertReport)
from qts_data.writers import load_in_parts
from qts_data.timescale import Server, declarations_of, probe, require_supported
from qts_data.timescale.ddl import render_select, verbatim
from qts_data.timescale.drift import Difference, find_drift, view_drift
from qts_data.timescale.errors import ServerNotSupported
from qts_data.timescale.status import FeatureState, State, feature_states

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

    from pydantic import SecretStr
    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.cache import CacheManager
    from qts_data.cache.manager import PositionCommitted
    from qts_data.contracts import OHLCV, BookedFill, CacheEvent, LedgerEntry, Position, TickData
    from qts_data.repositories import BarInterval, BarSource, Gap, StaleFeed, TickTable, UnitOfWork
    from qts_data.writers.fills import FillWriter
    from qts_data.settings import Settings

__all__ = [
    "CheckReport",
    "ImportReport",
    "Refuse",
    "Status",
    "adopt",
    "cache_config",
    "cache_manager",
    "check",
    "checked_database",
    "connect",
    "data_source",
    "database",
    "database_url",
    "dev_server",
    "dry_run",
    "fill_identity",
    "google_sheets",
    "import_bars",
    "import_csv_file",
    "import_tick_file",
    "import_ticks",
    "list_bars",
    "list_gaps",
    "list_stale_feeds",
    "move",
    "prepare_roles",
    "set_trading_zone",
    "sign_off_gap",
    "status",
    "tick_repository",
]


def dev_server(settings: Settings) -> EmbeddedServer:
    """The development server of this project, running or not."""
    return EmbeddedServer(settings.dev_directory)


def database_url(settings: Settings) -> URL:
    """The configured database, else the running development server.

    Raises:
        ConfigurationError: Neither is there.
    """
    if settings.database_url is not None:
        return parse_url(settings.database_url.get_secret_value())
    running = dev_server(settings).info()
    if running is None:
        raise ConfigurationError(
            "no database: set QTS_DATABASE_URL=timescaledb+psycopg://user:password@host:5432/database, or start "
            "the development server with qts-data dev up"
        )
    return parse_url(running.url())


@contextlib.contextmanager
def connect(settings: Settings) -> Iterator[Connection]:
    """One blocking connection in a transaction, committed at the end; errors are ours.

    Raises:
        ConfigurationError: The server refused the connection, or is too old.
        DatabaseUnavailable: No server answers.
    """
    url = database_url(settings)
    with (
        translated_errors(url),
        engine(url, connect_timeout_seconds=settings.connect_timeout_seconds).begin() as connection,
    ):
        _require_supported(connection)
        yield connection


def _require_supported(connection: Connection) -> None:
    try:
        require_supported(probe(connection))
    except ServerNotSupported as error:
        raise ConfigurationError(str(error)) from error


def _require_current(connection: Connection) -> None:
    """Refuse to read or write a schema that is not the code's."""
    _require_supported(connection)
    migrations.check_revision_known(connection)
    revision = migrations.revision_of(connection)
    if not revision.current:
        found = f"at revision {revision.database}" if revision.database else "empty"
        raise SchemaMismatch(f"the database is {found}, the code needs {revision.code}; run qts-data db upgrade")


@dataclass(frozen=True, slots=True)
class Status:
    """What `qts-data status` shows.

    Attributes:
        url: The database, without its password.
        server: Edition and versions.
        revision: The database's revision against the code's.
        trading_zone: Zone that the database's views use, None before they exist.
        features: Each declared TimescaleDB feature and how it stands; empty before the schema exists.
        missing_roles: Roles of ours that the server does not have.
    """

    url: str
    server: Server
    revision: migrations.Revision
    trading_zone: str | None
    features: tuple[FeatureState, ...]
    missing_roles: tuple[str, ...]


def status(settings: Settings) -> Status:
    """Look at the configured database.

    Raises:
        QtsDataError: One sentence about what is wrong and what to do.
    """
    with connect(settings) as connection:
        revision = migrations.revision_of(connection)
        has_zone = connection.scalar(sa.text("SELECT to_regproc('qts_trading_zone') IS NOT NULL"))
        existing = set(
            connection.scalars(
                sa.text("SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY(:roles)"),
                {"roles": list(roles.ROLES)},
            )
        )
        return Status(
            url=str(database_url(settings).render_as_string(hide_password=True)),
            server=probe(connection),
            revision=revision,
            trading_zone=connection.scalar(sa.text("SELECT qts_trading_zone()")) if has_zone else None,
            features=tuple(feature_states(connection, Base.metadata)) if revision.database else (),
            missing_roles=tuple(role for role in roles.ROLES if role not in existing),
        )


def adopt(settings: Settings, *, allow_data_loss: bool) -> list[tuple[str, str]]:
    """Give the configured database what its server can do by now and it does not have.

    Returns:
        What was done, and to what.

    Raises:
        QtsDataError: One sentence about what is wrong and what to do.
    """
    return migrations.adopt(
        database_url(settings),
        Base.metadata,
        allow_data_loss=allow_data_loss,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        wait_seconds=settings.migration_wait_seconds,
        lock_timeout_seconds=settings.migration_lock_timeout_seconds,
    )


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `qts-data db check` found.

    Attributes:
        server: Edition and versions.
        revision: The database's revision against the code's.
        differences: Where the database is not as the code declares.
        not_enforced: Declared features that this edition does not have.
    """

    server: Server
    revision: migrations.Revision
    differences: tuple[Difference, ...]
    not_enforced: tuple[FeatureState, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return self.revision.current and not self.differences


def check(settings: Settings) -> CheckReport:
    """Compare the live catalog with the models, the views and the TimescaleDB declarations.

    Raises:
        QtsDataError: It could not be told: no server answers, or a right is missing.
    """
    with connect(settings) as connection:
        revision = migrations.revision_of(connection)
        differences: list[Difference] = []
        if revision.database is not None:
            differences += migrations.table_drift(connection, Base.metadata)
            differences += find_drift(connection, Base.metadata)
            if connection.scalar(sa.text("SELECT to_regproc('qts_trading_zone') IS NOT NULL")):
                for view in VIEWS:
                    select = render_select(view.select, has_time_bucket=False)
                    differences += view_drift(connection, view.name, select)
        degraded = [state for state in feature_states(connection, Base.metadata) if state.state is State.DEGRADED]
        return CheckReport(probe(connection), revision, tuple(differences), tuple(degraded))


def prepare_roles(settings: Settings) -> None:
    """Make the roles and their rights in the configured database; harmless to repeat."""
    with connect(settings) as connection:
        roles.prepare_roles(
            connection,
            relations=[
                *Base.metadata.tables,
                *declarations_of(Base.metadata).continuous_aggregates,
                *(view.name for view in VIEWS),
                "alembic_version",
            ],
            functions=["t_ledger_refuse_change", "t_ledger_feed_outbox", "qts_trading_zone", "config_history_record"],
            privileges=PRIVILEGE_STATEMENTS,
            passwords={
                migrations.OWNER_ROLE: _secret(settings.owner_password),
                roles.ENGINE_ROLE: _secret(settings.engine_password),
                roles.READONLY_ROLE: _secret(settings.readonly_password),
            },
        )


def set_trading_zone(settings: Settings) -> None:
    """Give the database's views the configured trading time zone."""
    with connect(settings) as connection:
        for statement in trading_zone_statements(settings.trading_time_zone, replace=True):
            connection.execute(verbatim(statement))


def fill_identity(settings: Settings) -> FillIdentity:
    """The configured rules by which a fill is known again.

    Raises:
        ConfigurationError: An id scope or a zone is unknown.
    """
    return FillIdentity(
        time_zone=settings.trading_time_zone,
        market_zones=settings.book_market_time_zones,
        id_scopes=settings.book_id_scopes,
    )


def database(settings: Settings) -> Database:
    """The configured database; nothing connects before the first use."""
    if settings.allow_implausible_times:
        allow_any_time()
    return Database(
        database_url(settings),
        DatabaseConfig(
            pool_min=settings.database_pool_min,
            pool_max=settings.database_pool_max,
            pool_timeout_seconds=settings.database_pool_timeout_seconds,
            connect_timeout_seconds=settings.connect_timeout_seconds,
            statement_timeout_seconds=settings.database_statement_timeout_seconds,
            lock_timeout_seconds=settings.database_lock_timeout_seconds,
            tls_mode=settings.database_tls_mode,
            tls_root_certificate=settings.database_tls_root_certificate,
            tls_certificate=settings.database_tls_certificate,
            tls_key=settings.database_tls_key,
        ),
        identity=fill_identity(settings),
    )


def cache_config(settings: Settings) -> CacheConfig:
    """Where Redis is and how long it may take.

    Raises:
        ConfigurationError: Two settings contradict each other.
    """
    certificate = settings.redis_tls_root_certificate
    sentinels = [address.strip().rpartition(":") for address in (settings.redis_sentinels or "").split(",") if address]
    return CacheConfig(
        host=settings.redis_host,
        port=settings.redis_port,
        db=settings.redis_db,
        username=settings.redis_username,
        password=_secret(settings.redis_password),
        tls=settings.redis_tls,
        tls_root_certificate=None if certificate is None else str(certificate),
        url=_secret(settings.redis_url),
        sentinels=tuple((host, int(port)) for host, _, port in sentinels),
        sentinel_master=settings.redis_sentinel_master,
        sentinel_username=settings.redis_sentinel_username,
        sentinel_password=_secret(settings.redis_sentinel_password),
        cluster=settings.redis_cluster,
        max_connections=settings.redis_max_connections,
        socket_timeout_seconds=settings.redis_socket_timeout_seconds,
        connect_timeout_seconds=settings.redis_connect_timeout_seconds,
        breaker_threshold=settings.redis_breaker_threshold,
        breaker_recovery_seconds=settings.redis_breaker_recovery_seconds,
        prefix=settings.redis_prefix,
        ttl_ms={
            CacheType.PRICE: settings.redis_price_ttl_ms,
            CacheType.POSITION: settings.redis_position_ttl_ms,
            CacheType.ORDERBOOK: settings.redis_orderbook_ttl_ms,
            CacheType.RISK: settings.redis_risk_ttl_ms,
            CacheType.ORDER: settings.redis_order_ttl_ms,
            CacheType.STRATEGY: settings.redis_strategy_ttl_ms,
        },
        defensive_position_ttl_ms=settings.redis_defensive_position_ttl_ms,
        near_entries=settings.redis_near_entries,
        degraded_event=settings.redis_degraded_event,
    )


def cache_manager(
    config: CacheConfig,
    book: Database,
    *,
    writer: FillWriter | None = None,
    on_event: Callable[[CacheEvent], None] | None = None,
) -> CacheManager:
    """The hot tier in front of a database; nothing connects before the first use.

    Each booking of this `Database`, by whatever way, is known to the cache. The safety states FAIL and LOCKDOWN make
    the `Database` read-only, too: it refuses writes while any of its managers is in one of them. Closing the manager
    removes its listeners. A manager that is closed in FAIL leaves the `Database` read-only; its `set_safety` still
    ends that.

    Args:
        config: Such as `cache_config` makes of the settings.
        book: Where positions, limits and parameters are.
        writer: Books the fills, one of `book`; None books each in a transaction of its own.
        on_event: Told when the cache is given up and when it is back.

    Raises:
        ConfigurationError: The extra `redis` is not installed.
    """
    # Who has no Redis need not have its client.
    try:
        from qts_data.cache import CacheManager, Loaders  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError('the hot tier needs its client: pip install "qts-data[redis]"') from error

    # Whether this task books for the manager, which then writes to the cache itself.
    own: ContextVar[bool] = ContextVar("own", default=False)

    async def record_fill(entry: LedgerEntry, committed: PositionCommitted) -> BookedFill:
        if writer is not None:
            return await writer.record_fill(entry)

        async def work(uow: UnitOfWork) -> BookedFill:
            booked = await uow.ledger.record_fill(entry)
            held_at = time.monotonic()
            for one in (booked, *booked.applied):
                uow.after_commit(partial(committed, one.position, held_at))
            return booked

        token = own.set(True)
        try:
            return await book.run(work)
        finally:
            own.reset(token)

    def booked_elsewhere(booked: BookedFill, held_at: float) -> None:
        if not own.get():
            manager.fill_committed(booked, held_at)

    def on_safety(state: SafetyState) -> None:
        refused = state in {SafetyState.FAIL, SafetyState.LOCKDOWN}
        book.refuse_writes(f"the safety state is {state}: the database is read-only" if refused else None, by=own)

    loaders = Loaders(
        position=partial(_position, book),
        risk=partial(_risk, book),
        strategy=partial(_strategy, book),
        record_fill=record_fill,
    )
    removals: list[Callable[[], None]] = []
    manager = CacheManager(
        config, loaders, on_event=on_event, on_safety=on_safety, on_close=partial(_call_all, removals)
    )
    removals += [book.on_booked(booked_elsewhere), book.on_changed(manager.position_changed)]
    return manager


def _call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


async def _position(book: Database, symbol: str, account: str) -> Position | None:
    async with book.reader() as reader:
        return await reader.positions.find_position(symbol, account)


async def _risk(book: Database, account: str) -> RiskLimits | None:
    # Its own ones only: the manager reads those of all accounts apart.
    async with book.reader() as reader:
        found = await reader.risk_configs.list_limits(account)
    return RiskLimits(account=account, limits={one.config_key: one.value for one in found}) if found else None


async def _strategy(book: Database, strategy_id: str) -> StrategyParameters | None:
    async with book.reader() as reader:
        found = await reader.strategies.list_parameters(strategy_id)
    parameters = {one.param_name: one.value for one in found}
    return StrategyParameters(strategy_id=strategy_id, parameters=parameters) if found else None


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


@contextlib.asynccontextmanager
async def checked_database(settings: Settings) -> AsyncIterator[Database]:
    """The configured database for a command that may take its time; refuses a schema that is not the code's.

    Raises:
        ConfigurationError: The server refused the connection, or is too old.
        DatabaseUnavailable: No server answers.
        SchemaMismatch: The schema is older or newer than the code.
    """
    config = DatabaseConfig(
        connect_timeout_seconds=settings.connect_timeout_seconds,
        statement_timeout_seconds=0,
        idle_transaction_timeout_seconds=0,
    )
    async with Database(database_url(settings), config, identity=fill_identity(settings)) as made:
        async with made.reader() as reader:
            await reader.connection.run_sync(_require_current)
        yield made


@contextlib.asynccontextmanager
async def tick_repository(
    settings: Settings, *, autocommit: bool = False, table: TickTable = "tick_data"
) -> AsyncIterator[TickRepository]:
    """A tick repository in a transaction that commits at the end, or in autocommit mode."""
    async with _market_connection(settings, autocommit=autocommit) as connection:
        yield TickRepository(connection, table)


@contextlib.asynccontextmanager
async def _market_connection(settings: Settings, *, autocommit: bool = False) -> AsyncIterator[AsyncConnection]:
    # A load and a refresh take as long as they take.
    config = DatabaseConfig(
        connect_timeout_seconds=settings.connect_timeout_seconds,
        statement_timeout_seconds=0,
        idle_transaction_timeout_seconds=0,
    )
    url = database_url(settings)
    made = async_engine(url, config)
    if autocommit:
        made = made.execution_options(isolation_level="AUTOCOMMIT")
    try:
        with translated_errors(url):
            async with made.begin() as connection:
                await connection.run_sync(_require_current)
                yield connection
    finally:
        await made.dispose()


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of an import.

    Attributes:
        ingest: The load.
        refresh: The bars that were brought up to date.
        cutoff: Instant before which retention will drop ticks by itself; None if it keeps them.
    """

    ingest: IngestReport
    refresh: RefreshReport
    cutoff: dt.datetime | None

    def __post_init__(self) -> None:
        """Keep the instant in UTC."""
        utc_fields(self, "cutoff")


async def import_ticks(
    settings: Settings, ticks: Iterable[TickData], progress: Callable[[int], None] | None = None
) -> ImportReport:
    """Load ticks in one transaction, all or nothing, then bring their bars up to date.

    Raises:
        InvalidRecord: Names the row, the field and the reason; nothing was loaded.
        QtsDataError: The database refused; nothing was loaded.
    """
    max_ahead = dt.timedelta(seconds=settings.tick_max_ahead_seconds)
    async with tick_repository(settings) as repository:
        ingest = await repository.ingest(ticks, progress=progress, max_ahead=max_ahead)
    async with tick_repository(settings, autocommit=True) as repository:
        refresh = await repository.refresh_bars(ingest.stale)
        return ImportReport(ingest, refresh, ingest.cutoff)


async def import_tick_file(
    settings: Settings,
    layout: str,
    path: Path,
    options: ReadOptions,
    *,
    refuse: Refuse | None,
    rejected: Callable[[], int],
    keep: bool,
    again: bool,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Load a file of trades; a file that is in is not read again, whatever its name, unless that says the symbol.

    Args:
        settings: The environment.
        layout: A name of `FORMATS`.
        path: The file.
        options: What the file does not say.
        refuse: Takes each bad row, and the good ones are loaded part by part: after an interruption the same call
            goes on. Without it the file is loaded in one transaction, or not at all.
        rejected: How many rows `refuse` has taken.
        keep: Load into `tick_history`, which retention leaves alone.
        again: Load it even if it is in.
        progress: Called with the number of ticks so far.

    Raises:
        InvalidRecord: Without `refuse`: names the row, the field and the reason. With it: the file is missing, or
            the table holds another tick under the same key.
        QtsDataError: The database refused, or went away.
    """
    # What is made of the content depends on the name where that says the symbol.
    options = with_symbol(layout, path, options)
    try:
        # What was refused for its time before is to be read again.
        facts = ("any time",) if any_time_allowed() else ()
        batch = BatchId.of_file(path, layout, replace(options, quotes=None), *facts)
        if options.quotes is not None:
            batch = BatchId.of_file(options.quotes, batch.stream)
    except OSError as error:
        raise InvalidRecord(field="file", reason=f"{error.filename}: {error.strerror}") from error
    table: TickTable = "tick_history" if keep else "tick_data"
    max_ahead = dt.timedelta(seconds=settings.tick_max_ahead_seconds)
    ticks = cast("Iterator[TickData]", read_file(layout, path, options, refuse))
    if refuse is None:
        async with tick_repository(settings, table=table) as repository:
            # Not the name of a part: the first one may be in, of an import that was interrupted.
            whole = BatchId.of_whole(batch.stream)
            ingest = await repository.ingest(ticks, batch=whole, again=again, progress=progress, max_ahead=max_ahead)
    else:
        async with checked_database(settings) as database_:
            ingest = await load_in_parts(
                database_,
                ticks,
                stream=batch.stream,
                table=table,
                again=again,
                rejected=rejected,
                progress=progress,
                max_ahead=max_ahead,
            )
    async with tick_repository(settings, autocommit=True, table=table) as repository:
        refresh = RefreshReport() if keep else await repository.refresh_bars(ingest.stale)
        return ImportReport(ingest, refresh, ingest.cutoff)


async def import_bars(
    settings: Settings,
    layout: str,
    path: Path,
    options: ReadOptions,
    *,
    refuse: Refuse | None,
    progress: Callable[[int], None] | None = None,
) -> UpsertReport:
    """Insert and correct the bars of a file, minutes or days, in one transaction.

    Args:
        settings: The environment.
        layout: A name of `FORMATS`.
        path: The file.
        options: What the file does not say.
        refuse: Takes each bad row, and the good ones are loaded.
        progress: Called with the number of bars so far.

    Raises:
        InvalidRecord: The file is missing, or its bars are of a length that has no table; without `refuse` also: names
            the row, the field and the reason. Nothing was loaded.
        QtsDataError: The database refused; nothing was loaded.
    """
    bars = cast("Iterator[OHLCV]", read_file(layout, path, options, refuse))
    of_minutes = bar_length(layout, path) == "1m"
    async with checked_database(settings) as database_, database_.transaction() as uow:
        repository = uow.minute_bars if of_minutes else uow.daily_bars
        return await repository.upsert(bars, progress=progress)


def dry_run(layout: str, path: Path, options: ReadOptions, refuse: Refuse | None) -> int:
    """Read a file and load nothing; returns the number of good rows.

    Raises:
        InvalidRecord: Without `refuse`: names the row, the field and the reason.
    """
    return sum(1 for _ in read_file(layout, path, options, refuse))


async def list_bars(
    settings: Settings,
    symbol: str,
    start: dt.datetime,
    end: dt.datetime,
    interval: BarInterval,
    *,
    of: BarSource = "tick_data",
) -> list[OHLCV]:
    """Bars of a symbol that start in [start, end), of ticks or of vendors' minutes."""
    async with _market_connection(settings) as connection:
        return await BarReads(connection, of).bars(symbol, start, end, interval)


def _book_defaults(settings: Settings) -> Defaults:
    return Defaults(
        time_zone=settings.trading_time_zone,
        account=settings.book_account,
        market=settings.book_market,
        currency=settings.book_currency,
        broker=settings.book_broker,
        identity=fill_identity(settings),
    )


def google_sheets(settings: Settings) -> GoogleSheetsAdapter:
    """The configured spreadsheet; nothing connects before the first use.

    Raises:
        ConfigurationError: A setting or the extra `sheets` is missing, or the key file cannot be read.
    """
    if settings.sheets_spreadsheet_id is None or settings.sheets_credentials_file is None:
        raise ConfigurationError(
            "no spreadsheet: set QTS_SHEETS_SPREADSHEET_ID, and QTS_SHEETS_CREDENTIALS_FILE to the key file of a "
            "service account that may edit it"
        )
    try:
        credentials = json.loads(settings.sheets_credentials_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the key file {settings.sheets_credentials_file} cannot be read: {error}") from error
    # Not everybody has the extra.
    from qts_data.adapters.sheets.client import SheetsClient, SheetsConfig  # noqa: PLC0415

    config = SheetsConfig(
        spreadsheet_id=settings.sheets_spreadsheet_id,
        credentials=credentials,
        titles=settings.sheets_titles,
        timeout_seconds=settings.sheets_timeout_seconds,
        reads_per_minute=settings.sheets_reads_per_minute,
        writes_per_minute=settings.sheets_writes_per_minute,
    )
    if settings.sheets_url is not None:
        config = replace(config, base_url=settings.sheets_url.rstrip("/"))
    return GoogleSheetsAdapter(SheetsClient(config), _book_defaults(settings))


@contextlib.asynccontextmanager
async def _current_database(settings: Settings) -> AsyncIterator[Database]:
    """With the pool and the timeouts of an engine."""
    async with database(settings) as made:
        async with made.reader() as reader:
            await reader.connection.run_sync(_require_current)
        yield made


@contextlib.asynccontextmanager
async def move(settings: Settings) -> AsyncIterator[Move]:
    """The move from the configured spreadsheet to the configured database."""
    async with google_sheets(settings) as sheets, checked_database(settings) as made:
        yield Move(made, sheets)


@contextlib.asynccontextmanager
async def data_source(settings: Settings) -> AsyncIterator[DataSourceAdapter]:
    """What `QTS_DATA_SOURCE_MODE` says: the spreadsheet, both, or the database.

    Raises:
        ConfigurationError: A setting is missing, or the mode is not that of the move's phase: an engine that wrote to
            the sheet after a cutover would write to nobody.
    """
    if settings.data_source_mode == "SHEETS_ONLY":
        async with google_sheets(settings) as sheets:
            if settings.database_url is not None:
                async with _current_database(settings) as made:
                    phase = (await Move(made, sheets).status()).phase
                if phase in {"shadow", "cutover"}:
                    raise ConfigurationError(
                        f"the move is in the phase {phase}, where the database decides: run with "
                        f"QTS_DATA_SOURCE_MODE={'HYBRID' if phase == 'shadow' else 'DB_ONLY'}, or go back by qts-data "
                        "migrate rollback"
                    )
            yield sheets
        return
    async with _current_database(settings) as made, TimescaleDBAdapter(made) as primary:
        if settings.data_source_mode == "DB_ONLY":
            yield primary
            return
        async with HybridAdapter(primary, google_sheets(settings)) as hybrid:
            yield hybrid


async def import_csv_file(
    settings: Settings,
    kind: CsvKind,
    path: Path,
    mapping: Path | None,
    *,
    all_or_nothing: bool,
    dry_run: bool,
    progress: Callable[[int, int], None],
) -> CsvImportReport:
    """Import a file of a book; see `qts_data.operations.csv_files.import_csv`."""
    defaults = _book_defaults(settings)
    how = CsvMapping(defaults=defaults) if mapping is None else CsvMapping.load(mapping, defaults)
    async with checked_database(settings) as made:
        return await import_csv(
            made, path, kind, how, all_or_nothing=all_or_nothing, dry_run=dry_run, progress=progress
        )


async def list_gaps(
    settings: Settings,
    symbol: str,
    start: dt.datetime,
    end: dt.datetime,
    calendar: str,
    *,
    source: str | None,
    at_least: dt.timedelta,
    kept: bool = False,
) -> list[Gap]:
    """Trading minutes of [start, end) without a tick."""
    async with tick_repository(settings, table="tick_history" if kept else "tick_data") as repository:
        return await repository.gaps(symbol, start, end, calendar, source=source, at_least=at_least)


async def sign_off_gap(
    settings: Settings, symbol: str, start: dt.datetime, end: dt.datetime, reason: str, *, source: str | None
) -> None:
    """Say why nothing is there."""
    async with tick_repository(settings) as repository:
        await repository.sign_off_gap(symbol, start, end, reason, source=source)


async def list_stale_feeds(settings: Settings, calendar: str, silent_for: dt.timedelta) -> list[StaleFeed]:
    """Feeds from which nothing comes while the exchange trades."""
    async with tick_repository(settings) as repository:
        return await repository.stale_feeds(calendar, silent_for=silent_for)
