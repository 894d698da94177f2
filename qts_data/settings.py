"""Every setting: typed, validated once, and read only by the command line and the bootstrap.

`Settings` nests the configuration classes. Each of their fields is a setting, too: see `config_sources.knobs_of`.
"""

from __future__ import annotations

import re
import zoneinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from qts_data.config_sources import knobs_of, nested, read_sources
from qts_data.contracts.cache import CacheConfig
from qts_data.database.engine import DatabaseConfig
from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

    from qts_data.config_sources import Found, Knob

__all__ = ["KNOBS", "Settings", "load_settings"]


def _known_zone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        # pydantic turns a ValueError into its report of all wrong settings.
        raise ValueError(f"{name!r} is not a time zone; write a name such as Asia/Seoul or UTC") from None
    return name


class Settings(BaseSettings):
    """The values of all settings.

    Values that are passed win over the environment, the environment over `.env`, and `.env` over `qts-data.toml`.

    Attributes:
        database_url: `QTS_DATABASE_URL`, such as `timescaledb+psycopg://qts:secret@localhost:5432/qts`;
            None falls back to the development server of this project, if it runs.
        database: `QTS_DATABASE_*`, one variable for each field of `DatabaseConfig`.
        redis: `QTS_REDIS_*`, one for each field of `CacheConfig`, and for each type in `ttl_ms`, such as
            `QTS_REDIS_PRICE_TTL_MS`.
        tick_max_ahead_seconds: `QTS_TICK_MAX_AHEAD_SECONDS`, how far ahead of the clock an imported tick may lie: of
            this machine's clock when a file is read, of the server's when it is stored. A tick further ahead is
            refused.
        trading_time_zone: `QTS_TRADING_TIME_ZONE`; days in this zone are the trading days.
        dev_directory: `QTS_DEV_DIRECTORY`, data directory of the development server.
        migration_wait_seconds: `QTS_MIGRATION_WAIT_SECONDS`, longest wait for another migration to end.
        migration_lock_timeout_seconds: `QTS_MIGRATION_LOCK_TIMEOUT_SECONDS`, longest wait of one statement of
            a migration for a lock. While it waits, later statements on the same table wait behind it.
        migration_statement_timeout_seconds: `QTS_MIGRATION_STATEMENT_TIMEOUT_SECONDS`, longest run of one
            statement of a migration.
        data_source_mode: `QTS_DATA_SOURCE_MODE`: SHEETS_ONLY, HYBRID or DB_ONLY.
        sheets_spreadsheet_id: `QTS_SHEETS_SPREADSHEET_ID`, from its address.
        sheets_credentials_file: `QTS_SHEETS_CREDENTIALS_FILE`, key file of a service account.
        sheets_titles: `QTS_SHEETS_TITLES`, JSON: names of sheets that differ from the usual ones, by the kind of their
            rows.
        sheets_url: `QTS_SHEETS_URL`, another server in place of Google's, such as the stand-in.
        sheets_timeout_seconds: `QTS_SHEETS_TIMEOUT_SECONDS`, longest wait for an answer.
        sheets_reads_per_minute: `QTS_SHEETS_READS_PER_MINUTE`; Google allows a service account 60, a project 300.
        sheets_writes_per_minute: `QTS_SHEETS_WRITES_PER_MINUTE`, the same for writes.
        allow_implausible_times: `QTS_ALLOW_IMPLAUSIBLE_TIMES`, whether commands accept times before 1980 and more
            than a day ahead.
        book_account: `QTS_BOOK_ACCOUNT`, account of rows of sheets and files that name none.
        book_market: `QTS_BOOK_MARKET`, market of such rows.
        book_currency: `QTS_BOOK_CURRENCY`, currency of such rows.
        book_broker: `QTS_BOOK_BROKER`, broker of such rows.
        book_id_scopes: `QTS_BOOK_ID_SCOPES`, JSON: for each broker whose execution ids restart, the scope in which they
            are unique, such as `{"kis": "day", "binance": "symbol"}`; parts are day, symbol, order and side.
        book_market_time_zones: `QTS_BOOK_MARKET_TIME_ZONES`, JSON: zones whose days are the trading days of single
            markets, such as `{"NASDAQ": "America/New_York"}`; elsewhere they are days in `QTS_TRADING_TIME_ZONE`.
        owner_password: `QTS_OWNER_PASSWORD`, password of qts_owner; without it, it logs in by other means only.
        engine_password: `QTS_ENGINE_PASSWORD`, password of qts_engine; without it, as for qts_owner.
        readonly_password: `QTS_READONLY_PASSWORD`, password of qts_readonly; without it, as for qts_owner.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(extra="forbid", frozen=True)

    database_url: SecretStr | None = None
    database: DatabaseConfig = Field(default_factory=DatabaseConfig)
    redis: CacheConfig = Field(default_factory=CacheConfig)
    tick_max_ahead_seconds: float = Field(default=60.0, ge=0, le=86_400 * 3_650)
    trading_time_zone: Annotated[str, AfterValidator(_known_zone)] = "Asia/Seoul"
    dev_directory: Path | None = None
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

    @property
    def connect_timeout_seconds(self) -> int:
        """Longest wait for a connection, in seconds, as in `database`."""
        return self.database.connect_timeout_seconds

    @field_validator("database", "redis", mode="wrap")
    @classmethod
    def _refuse_by_variable(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return handler(value)
        except ConfigurationError as error:
            # pydantic reports a ValueError together with all other wrong settings.
            raise ValueError(_in_variables(str(error), str(info.field_name))) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order: the passed values, then those of `read_sources`."""
        return init_settings, _Sources(settings_cls)


class _Sources(PydanticBaseSettingsSource):
    """The environment and the files, as a source for pydantic."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        return nested(KNOBS, read_sources(KNOBS))


KNOBS: Final = knobs_of(Settings, {"QTS_CONNECT_TIMEOUT_SECONDS": "QTS_DATABASE_CONNECT_TIMEOUT_SECONDS"})
"""Every setting, with its variable. The list is derived from `Settings` and the classes that it nests."""


def load_settings() -> Settings:
    """Read the environment, `.env` and `qts-data.toml`. The first of them that gives a value wins.

    Raises:
        ConfigurationError: A setting is wrong; the message names each such variable or key, and why.
    """
    try:
        return Settings()
    except ValidationError as error:
        found = read_sources(KNOBS)
        # The values stay out of the message, because one of them may be a password.
        problems = "; ".join(
            f"{_name_of(problem['loc'], found)}{problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_input=False)
        )
        raise ConfigurationError(problems) from None


def _name_of(place: tuple[int | str, ...], found: Mapping[str, Found]) -> str:
    for knob in KNOBS:
        if place[: len(knob.path)] == knob.path:
            given = found.get(knob.variable)
            if given is None or given.source == "environment":
                return f"{given.name if given else knob.variable}: "
            return f"{given.name} in {given.source}: "
    # The message of a nested class already names its variables.
    return ""


def _in_variables(message: str, section: str) -> str:
    """Replace each field that a message of a nested class names by its variable."""
    for knob in KNOBS:
        if knob.path[0] == section and len(knob.path) > 1:
            word = rf"\b{knob.path[1]}\b" if len(knob.path) == 2 else _ttl_of(knob)
            message = re.sub(rf"(?<![\w'\"]){word}(?![\w'\"])", knob.variable, message)
    return message


def _ttl_of(knob: Knob) -> str:
    return rf"the TTL of {knob.variable.split('_')[2]}"
