"""Every `QTS_*` environment variable: typed, validated once, read only by the command line and the bootstrap."""

from __future__ import annotations

import zoneinfo
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from qts_data.errors import ConfigurationError

__all__ = ["Settings", "load_settings"]


def _known_zone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        # pydantic turns a ValueError into its report of all wrong settings.
        raise ValueError(f"{name!r} is no time zone; write a name such as Asia/Seoul or UTC") from None
    return name


def _addresses(text: str | None) -> str | None:
    for address in (text or "").split(",") if text else ():
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"{address!r} is no host:port; write them divided by commas")
    return text


class Settings(BaseSettings):
    """The environment, as values.

    Attributes:
        database_url: `QTS_DATABASE_URL`, such as `timescaledb+psycopg://qts:secret@localhost:5432/qts`;
            None falls back to the development server of this project, if it runs.
        database_pool_min: `QTS_DATABASE_POOL_MIN`, connections that are kept open.
        database_pool_max: `QTS_DATABASE_POOL_MAX`, most connections at a time.
        database_pool_timeout_seconds: `QTS_DATABASE_POOL_TIMEOUT_SECONDS`, longest wait for a free one.
        database_statement_timeout_seconds: `QTS_DATABASE_STATEMENT_TIMEOUT_SECONDS`, longest run of a statement.
        database_lock_timeout_seconds: `QTS_DATABASE_LOCK_TIMEOUT_SECONDS`, longest wait for a lock.
        database_tls_mode: `QTS_DATABASE_TLS_MODE`, libpq's sslmode, such as verify-full.
        database_tls_root_certificate: `QTS_DATABASE_TLS_ROOT_CERTIFICATE`, file that the server's certificate is
            checked with.
        database_tls_certificate: `QTS_DATABASE_TLS_CERTIFICATE`, file with the client's certificate.
        database_tls_key: `QTS_DATABASE_TLS_KEY`, file with its key.
        redis_url: `QTS_REDIS_URL`, `redis://`, `rediss://` or `unix://`; stands for host to tls below.
        redis_host: `QTS_REDIS_HOST`, the server of the hot tier.
        redis_port: `QTS_REDIS_PORT`, its port.
        redis_db: `QTS_REDIS_DB`, number of its database.
        redis_username: `QTS_REDIS_USERNAME`, ACL user.
        redis_password: `QTS_REDIS_PASSWORD`, its password.
        redis_tls: `QTS_REDIS_TLS`, whether to encrypt.
        redis_tls_root_certificate: `QTS_REDIS_TLS_ROOT_CERTIFICATE`, file that its certificate is checked with.
        redis_sentinels: `QTS_REDIS_SENTINELS`, `host:port` of each Sentinel, divided by commas.
        redis_sentinel_master: `QTS_REDIS_SENTINEL_MASTER`, the name that they watch the master under.
        redis_sentinel_username: `QTS_REDIS_SENTINEL_USERNAME`, ACL user of the Sentinels.
        redis_sentinel_password: `QTS_REDIS_SENTINEL_PASSWORD`, its password.
        redis_cluster: `QTS_REDIS_CLUSTER`, whether the server belongs to a Redis Cluster.
        redis_prefix: `QTS_REDIS_PREFIX`, begins every key.
        redis_price_ttl_ms: `QTS_REDIS_PRICE_TTL_MS`, milliseconds for which a price may be served.
        redis_position_ttl_ms: `QTS_REDIS_POSITION_TTL_MS`, the same for a position.
        redis_orderbook_ttl_ms: `QTS_REDIS_ORDERBOOK_TTL_MS`, for an order book.
        redis_risk_ttl_ms: `QTS_REDIS_RISK_TTL_MS`, for limits.
        redis_order_ttl_ms: `QTS_REDIS_ORDER_TTL_MS`, for an order.
        redis_strategy_ttl_ms: `QTS_REDIS_STRATEGY_TTL_MS`, for the parameters of a strategy.
        redis_defensive_position_ttl_ms: `QTS_REDIS_DEFENSIVE_POSITION_TTL_MS`, for a position in DEFENSIVE; None never
            serves one that is older than the default of a second.
        redis_max_connections: `QTS_REDIS_MAX_CONNECTIONS`, most servers that are talked to, one connection to each.
        redis_socket_timeout_seconds: `QTS_REDIS_SOCKET_TIMEOUT_SECONDS`, longest wait for an answer.
        redis_connect_timeout_seconds: `QTS_REDIS_CONNECT_TIMEOUT_SECONDS`, longest time for making a connection.
        redis_breaker_threshold: `QTS_REDIS_BREAKER_THRESHOLD`, failures in a row after which Redis is left alone.
        redis_breaker_recovery_seconds: `QTS_REDIS_BREAKER_RECOVERY_SECONDS`, for how long.
        redis_near_entries: `QTS_REDIS_NEAR_ENTRIES`, most values kept in the process itself; 0 keeps none.
        redis_degraded_event: `QTS_REDIS_DEGRADED_EVENT`, name of the event sent when Redis is given up.
        tick_max_ahead_seconds: `QTS_TICK_MAX_AHEAD_SECONDS`, how far ahead of the clock an imported tick may lie: of
            this machine's clock when a file is read, of the server's when it is stored. One further ahead is refused.
        trading_time_zone: `QTS_TRADING_TIME_ZONE`; days in this zone are the trading days.
        dev_directory: `QTS_DEV_DIRECTORY`, data directory of the development server.
        connect_timeout_seconds: `QTS_CONNECT_TIMEOUT_SECONDS`, longest wait for a connection.
        migration_wait_seconds: `QTS_MIGRATION_WAIT_SECONDS`, longest wait for another migration to end.
        migration_lock_timeout_seconds: `QTS_MIGRATION_LOCK_TIMEOUT_SECONDS`, longest wait of one statement of
            a migration for a lock: while it waits, everybody behind it waits too.
        migration_statement_timeout_seconds: `QTS_MIGRATION_STATEMENT_TIMEOUT_SECONDS`, longest run of one
            statement of a migration.
        data_source_mode: `QTS_DATA_SOURCE_MODE`: SHEETS_ONLY, HYBRID or DB_ONLY.
        sheets_spreadsheet_id: `QTS_SHEETS_SPREADSHEET_ID`, from its address.
        sheets_credentials_file: `QTS_SHEETS_CREDENTIALS_FILE`, key file of a service account.
        sheets_titles: `QTS_SHEETS_TITLES`, JSON: names of sheets that are not the usual ones, by what their rows are.
        sheets_url: `QTS_SHEETS_URL`, another server in place of Google's, such as the stand-in.
        sheets_timeout_seconds: `QTS_SHEETS_TIMEOUT_SECONDS`, longest wait for an answer.
        sheets_reads_per_minute: `QTS_SHEETS_READS_PER_MINUTE`; Google allows a service account 60, a project 300.
        sheets_writes_per_minute: `QTS_SHEETS_WRITES_PER_MINUTE`, the same for writes.
        allow_implausible_times: `QTS_ALLOW_IMPLAUSIBLE_TIMES`, whether commands take times of before 1980 and of more
            than a day ahead.
        book_account: `QTS_BOOK_ACCOUNT`, of rows of sheets and files that name none.
        book_market: `QTS_BOOK_MARKET`, the same for the market.
        book_currency: `QTS_BOOK_CURRENCY`, the same for the currency.
        book_broker: `QTS_BOOK_BROKER`, the same for the broker.
        book_id_scopes: `QTS_BOOK_ID_SCOPES`, JSON: for each broker whose execution ids restart, the scope in which they
            are unique, such as `{"kis": "day", "binance": "symbol"}`; parts are day, symbol, order and side.
        book_market_time_zones: `QTS_BOOK_MARKET_TIME_ZONES`, JSON: zones whose days are the trading days of single
            markets, such as `{"NASDAQ": "America/New_York"}`; elsewhere they are days in `QTS_TRADING_TIME_ZONE`.
        owner_password: `QTS_OWNER_PASSWORD`, password of qts_owner; None lets it log in by other means only.
        engine_password: `QTS_ENGINE_PASSWORD`, the same for qts_engine.
        readonly_password: `QTS_READONLY_PASSWORD`, the same for qts_readonly.
    """

    model_config = SettingsConfigDict(env_prefix="QTS_", env_ignore_empty=True, extra="ignore", frozen=True)

    database_url: SecretStr | None = None
    database_pool_min: int = Field(default=5, ge=1)
    database_pool_max: int = Field(default=20, ge=1)
    database_pool_timeout_seconds: float = Field(default=5.0, gt=0)
    database_statement_timeout_seconds: float = Field(default=30.0, ge=0)
    database_lock_timeout_seconds: float = Field(default=5.0, ge=0)
    database_tls_mode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None = None
    database_tls_root_certificate: Path | None = None
    database_tls_certificate: Path | None = None
    database_tls_key: Path | None = None
    redis_url: SecretStr | None = None
    redis_host: str = "localhost"
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_db: int = Field(default=0, ge=0)
    redis_username: str | None = None
    redis_password: SecretStr | None = None
    redis_tls: bool = False
    redis_tls_root_certificate: Path | None = None
    redis_sentinels: Annotated[str | None, AfterValidator(_addresses)] = None
    redis_sentinel_master: str | None = None
    redis_sentinel_username: str | None = None
    redis_sentinel_password: SecretStr | None = None
    redis_cluster: bool = False
    redis_prefix: str = ""
    redis_price_ttl_ms: int = Field(default=100, ge=1)
    redis_position_ttl_ms: int = Field(default=1_000, ge=1)
    redis_orderbook_ttl_ms: int = Field(default=50, ge=1)
    redis_risk_ttl_ms: int = Field(default=5_000, ge=1)
    redis_order_ttl_ms: int = Field(default=60_000, ge=1)
    redis_strategy_ttl_ms: int = Field(default=60_000, ge=1)
    redis_defensive_position_ttl_ms: int | None = Field(default=None, ge=1)
    redis_max_connections: int = Field(default=50, ge=1)
    redis_socket_timeout_seconds: float = Field(default=0.1, gt=0)
    redis_connect_timeout_seconds: float = Field(default=0.5, gt=0)
    redis_breaker_threshold: int = Field(default=5, ge=1)
    redis_breaker_recovery_seconds: float = Field(default=60.0, ge=0)
    redis_near_entries: int = Field(default=0, ge=0)
    redis_degraded_event: str = "CACHE_DEGRADED"
    tick_max_ahead_seconds: float = Field(default=60.0, ge=0, le=86_400 * 3_650)
    trading_time_zone: Annotated[str, AfterValidator(_known_zone)] = "Asia/Seoul"
    dev_directory: Path | None = None
    connect_timeout_seconds: int = Field(default=10, ge=1, le=600)
    migration_wait_seconds: int = Field(default=600, ge=1)
    migration_lock_timeout_seconds: float = Field(default=5.0, gt=0)
    migration_statement_timeout_seconds: float = Field(default=900.0, gt=0)
    data_source_mode: Literal["SHEETS_ONLY", "HYBRID", "DB_ONLY"] = "DB_ONLY"
    sheets_spreadsheet_id: str | None = None
    sheets_credentials_file: Path | None = None
    sheets_titles: dict[str, str] = Field(default_factory=dict)
    sheets_url: str | None = None
    sheets_timeout_seconds: float = Field(default=30.0, gt=0)
    sheets_reads_per_minute: int = Field(default=60, ge=1)
    sheets_writes_per_minute: int = Field(default=60, ge=1)
    allow_implausible_times: bool = False
    book_account: str = "main"
    book_market: str = "KRX"
    book_currency: str = "KRW"
    book_broker: str = "sheet"
    book_id_scopes: dict[str, str] = Field(default_factory=dict)
    book_market_time_zones: dict[str, str] = Field(default_factory=dict)
    owner_password: SecretStr | None = None
    engine_password: SecretStr | None = None
    readonly_password: SecretStr | None = None


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        ConfigurationError: Names each variable that is wrong, and why.
    """
    try:
        return Settings()
    except ValidationError as error:
        # The values stay out of the message: one of them may be a password.
        problems = "; ".join(
            f"QTS_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_input=False)
        )
        raise ConfigurationError(problems) from None
