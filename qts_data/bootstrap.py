"""The composition root: makes connected parts from settings. No other module reads the environment."""

from __future__ import annotations

import contextlib
import json
import time
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from qts_data.adapters import DataSourceAdapter, GoogleSheetsAdapter, HybridAdapter, TimescaleDBAdapter
from qts_data.contracts import RiskLimits, SafetyState, StrategyParameters
from qts_data.contracts.leniency import allow_any_time
from qts_data.database import migrations
from qts_data.database.engine import engine, parse_url
from qts_data.database.errors import translated_errors
from qts_data.embedded import EmbeddedServer
from qts_data.errors import ConfigurationError, SchemaMismatch
from qts_data.importers.rows import Refuse
from qts_data.importers.tables import Defaults
from qts_data.moving import Move
from qts_data.repositories import Database
from qts_data.rules.fill_identity import FillIdentity
from qts_data.timescale import probe, require_supported
from qts_data.timescale.errors import ServerNotSupported

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pydantic import SecretStr
    from sqlalchemy.engine import URL, Connection

    from qts_data.cache import CacheManager
    from qts_data.cache.manager import PositionCommitted
    from qts_data.contracts import BookedFill, CacheConfig, CacheEvent, LedgerEntry, Position
    from qts_data.database.engine import DatabaseConfig
    from qts_data.repositories import UnitOfWork
    from qts_data.settings import Settings
    from qts_data.writers.fills import FillWriter

__all__ = [
    "Refuse",
    "book_defaults",
    "cache_config",
    "cache_manager",
    "checked_database",
    "connect",
    "data_source",
    "database",
    "database_url",
    "dev_server",
    "fill_identity",
    "google_sheets",
    "move",
    "patient_config",
    "require_current",
    "shown_url",
]


_URL: Final = "timescaledb+psycopg://user:password@host:5432/database"


def dev_server(settings: Settings) -> EmbeddedServer:
    """Return the development server of this project, whether it runs or not."""
    return EmbeddedServer(settings.dev_directory)


def database_url(settings: Settings) -> URL:
    """Return the URL of the configured database, or else of the running development server.

    Raises:
        ConfigurationError: No database is configured, and no development server runs.
    """
    if settings.database_url is not None:
        return parse_url(settings.database_url.get_secret_value())
    try:
        running = dev_server(settings).info()
    except ConfigurationError as error:
        raise ConfigurationError(
            f"no database: set QTS_DATABASE_URL={_URL}; the development server cannot stand in: {error}"
        ) from error
    if running is None:
        raise ConfigurationError(
            f"no database: set QTS_DATABASE_URL={_URL}, or start the development server with qts-data dev up"
        )
    return parse_url(running.url())


def shown_url(text: str) -> str:
    """Write a database URL without its password and its query, which may hold another one.

    Raises:
        ConfigurationError: The text is not such a URL.
    """
    return str(parse_url(text).set(query={}).render_as_string(hide_password=True))


@contextlib.contextmanager
def connect(settings: Settings) -> Iterator[Connection]:
    """Open one blocking connection in a transaction, committed at the end. Driver errors are translated.

    Raises:
        ConfigurationError: The server refused the connection, or is too old.
        DatabaseUnavailable: No server answers.
    """
    url = database_url(settings)
    with (
        translated_errors(url),
        engine(url, settings.database).begin() as connection,
    ):
        _require_supported(connection)
        yield connection


def _require_supported(connection: Connection) -> None:
    try:
        require_supported(probe(connection))
    except ServerNotSupported as error:
        raise ConfigurationError(str(error)) from error


def require_current(connection: Connection) -> None:
    """Refuse a schema that is not at the code's revision.

    Raises:
        ConfigurationError: The server is too old.
        SchemaMismatch: The schema is older or newer than the code.
    """
    _require_supported(connection)
    migrations.check_revision_known(connection)
    revision = migrations.revision_of(connection)
    if not revision.current:
        found = f"at revision {revision.database}" if revision.database else "empty"
        raise SchemaMismatch(f"the database is {found}, the code needs {revision.code}; run qts-data db upgrade")


def fill_identity(settings: Settings) -> FillIdentity:
    """Return the configured rules by which a fill is recognised.

    Raises:
        ConfigurationError: An id scope or a zone is unknown.
    """
    return FillIdentity(
        time_zone=settings.trading_time_zone,
        market_zones=settings.book_market_time_zones,
        id_scopes=settings.book_id_scopes,
    )


def database(settings: Settings) -> Database:
    """Make the configured database. It connects at the first use."""
    if settings.allow_implausible_times:
        allow_any_time()
    return Database(database_url(settings), settings.database, identity=fill_identity(settings))


def patient_config(settings: Settings) -> DatabaseConfig:
    """Return the configuration for a long command: statements and transactions without a time limit."""
    return replace(settings.database, statement_timeout_seconds=0, idle_transaction_timeout_seconds=0)


def cache_config(settings: Settings) -> CacheConfig:
    """Return the configuration of Redis: its address, timeouts and TTLs."""
    return settings.redis


def cache_manager(
    config: CacheConfig,
    book: Database,
    *,
    writer: FillWriter | None = None,
    on_event: Callable[[CacheEvent], None] | None = None,
) -> CacheManager:
    """Make the hot tier in front of a database. It connects at the first use.

    The cache is notified of each booking of this `Database`, by any method. The safety states FAIL and LOCKDOWN make
    the `Database` read-only, too: it refuses writes while any of its managers is in one of them. Closing the manager
    removes its listeners. A manager that is closed in FAIL leaves the `Database` read-only; its `set_safety` can still
    end that.

    Args:
        config: Configuration of Redis, such as from `cache_config`.
        book: The database of positions, limits and parameters.
        writer: Writer of fills of `book`; None books each fill in its own transaction.
        on_event: Called when the cache is given up and when it is back.

    Raises:
        ConfigurationError: The extra `redis` is not installed.
    """
    # The client is optional: it is imported only with the hot tier.
    try:
        from qts_data.cache import CacheManager, Loaders  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError('the hot tier needs its client: pip install "qts-data[redis]"') from error

    # Whether the manager books in this task. Then it writes to the cache itself.
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
    # Reads the account's own limits only. The manager reads the limits of all accounts separately.
    async with book.reader() as reader:
        found = await reader.risk_configs.list_limits(account)
    return RiskLimits(account=account, limits={one.config_key: one.value for one in found}) if found else None


async def _strategy(book: Database, strategy_id: str) -> StrategyParameters | None:
    async with book.reader() as reader:
        found = await reader.strategies.list_parameters(strategy_id)
    parameters = {one.param_name: one.value for one in found}
    return StrategyParameters(strategy_id=strategy_id, parameters=parameters) if found else None


def secret(value: SecretStr | None) -> str | None:
    """Return the text of a secret, None without one."""
    return None if value is None else value.get_secret_value()


@contextlib.asynccontextmanager
async def checked_database(settings: Settings) -> AsyncIterator[Database]:
    """Open the configured database for a long command. Refuse a schema that is not at the code's revision.

    Raises:
        ConfigurationError: The server refused the connection, or is too old.
        DatabaseUnavailable: No server answers.
        SchemaMismatch: The schema is older or newer than the code.
    """
    async with Database(database_url(settings), patient_config(settings), identity=fill_identity(settings)) as made:
        async with made.reader() as reader:
            await reader.connection.run_sync(require_current)
        yield made


def book_defaults(settings: Settings) -> Defaults:
    """Return account, market, currency, broker and zone for rows that do not name them."""
    return Defaults(
        time_zone=settings.trading_time_zone,
        account=settings.book_account,
        market=settings.book_market,
        currency=settings.book_currency,
        broker=settings.book_broker,
        identity=fill_identity(settings),
    )


def google_sheets(settings: Settings) -> GoogleSheetsAdapter:
    """Make the configured spreadsheet. It connects at the first use.

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
    # The extra is optional: it is imported only with a spreadsheet.
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
    return GoogleSheetsAdapter(SheetsClient(config), book_defaults(settings))


@contextlib.asynccontextmanager
async def _current_database(settings: Settings) -> AsyncIterator[Database]:
    """Open the database with the pool and the timeouts of an engine. Refuse a schema of another revision."""
    async with database(settings) as made:
        async with made.reader() as reader:
            await reader.connection.run_sync(require_current)
        yield made


@contextlib.asynccontextmanager
async def move(settings: Settings) -> AsyncIterator[Move]:
    """Open the move from the configured spreadsheet to the configured database."""
    async with google_sheets(settings) as sheets, checked_database(settings) as made:
        yield Move(made, sheets)


@contextlib.asynccontextmanager
async def data_source(settings: Settings) -> AsyncIterator[DataSourceAdapter]:
    """Open the data source of `QTS_DATA_SOURCE_MODE`: the spreadsheet, both, or the database.

    Raises:
        ConfigurationError: A setting is missing, or the mode does not fit the move's phase. After a cutover, the
            writes of an engine on the sheet alone would not reach the database.
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
