"""Settings: one table of names over the environment, `.env` and `qts-data.toml`."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qts_data.contracts import CacheConfig, CacheType
from qts_data.database.engine import DatabaseConfig
from qts_data.errors import ConfigurationError
from qts_data.settings import KNOBS, Settings, load_settings
from scripts.settings_page import PAGE, page

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from qts_data.config_sources import Knob

    Run = Callable[..., subprocess.CompletedProcess[str]]

OLD_NAMES = """
QTS_DATABASE_URL QTS_DATABASE_POOL_MIN QTS_DATABASE_POOL_MAX QTS_DATABASE_POOL_TIMEOUT_SECONDS
QTS_DATABASE_STATEMENT_TIMEOUT_SECONDS QTS_DATABASE_LOCK_TIMEOUT_SECONDS QTS_DATABASE_TLS_MODE
QTS_DATABASE_TLS_ROOT_CERTIFICATE QTS_DATABASE_TLS_CERTIFICATE QTS_DATABASE_TLS_KEY QTS_REDIS_URL QTS_REDIS_HOST
QTS_REDIS_PORT QTS_REDIS_DB QTS_REDIS_USERNAME QTS_REDIS_PASSWORD QTS_REDIS_TLS QTS_REDIS_TLS_ROOT_CERTIFICATE
QTS_REDIS_SENTINELS QTS_REDIS_SENTINEL_MASTER QTS_REDIS_SENTINEL_USERNAME QTS_REDIS_SENTINEL_PASSWORD
QTS_REDIS_CLUSTER QTS_REDIS_PREFIX QTS_REDIS_PRICE_TTL_MS QTS_REDIS_POSITION_TTL_MS QTS_REDIS_ORDERBOOK_TTL_MS
QTS_REDIS_RISK_TTL_MS QTS_REDIS_ORDER_TTL_MS QTS_REDIS_STRATEGY_TTL_MS QTS_REDIS_DEFENSIVE_POSITION_TTL_MS
QTS_REDIS_MAX_CONNECTIONS QTS_REDIS_SOCKET_TIMEOUT_SECONDS QTS_REDIS_CONNECT_TIMEOUT_SECONDS
QTS_REDIS_BREAKER_THRESHOLD QTS_REDIS_BREAKER_RECOVERY_SECONDS QTS_REDIS_NEAR_ENTRIES QTS_REDIS_DEGRADED_EVENT
QTS_TICK_MAX_AHEAD_SECONDS QTS_TRADING_TIME_ZONE QTS_DEV_DIRECTORY QTS_CONNECT_TIMEOUT_SECONDS
QTS_MIGRATION_WAIT_SECONDS QTS_MIGRATION_LOCK_TIMEOUT_SECONDS QTS_MIGRATION_STATEMENT_TIMEOUT_SECONDS
QTS_DATA_SOURCE_MODE QTS_SHEETS_SPREADSHEET_ID QTS_SHEETS_CREDENTIALS_FILE QTS_SHEETS_TITLES QTS_SHEETS_URL
QTS_SHEETS_TIMEOUT_SECONDS QTS_SHEETS_READS_PER_MINUTE QTS_SHEETS_WRITES_PER_MINUTE QTS_ALLOW_IMPLAUSIBLE_TIMES
QTS_BOOK_ACCOUNT QTS_BOOK_MARKET QTS_BOOK_CURRENCY QTS_BOOK_BROKER QTS_BOOK_ID_SCOPES QTS_BOOK_MARKET_TIME_ZONES
QTS_OWNER_PASSWORD QTS_ENGINE_PASSWORD QTS_READONLY_PASSWORD
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without settings of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("QTS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def value_of(settings: Settings, knob: Knob) -> object:
    value: Any = settings
    for name in knob.path:
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


def test_names_of_before_are_all_known() -> None:
    assert set(OLD_NAMES.split()) <= {name for knob in KNOBS for name in (knob.variable, *knob.aliases)}


def test_each_field_of_a_nested_class_has_a_variable() -> None:
    for section, kind in (("database", DatabaseConfig), ("redis", CacheConfig)):
        paths = {knob.path[1] for knob in KNOBS if knob.path[0] == section}
        assert paths == {field.name for field in dataclasses.fields(kind)}
    assert len({knob.variable for knob in KNOBS}) == len(KNOBS) == len({knob.path for knob in KNOBS})


OTHER: dict[type, object] = {bool: True, int: 7, float: 2.5, str: "other"}
SPECIAL = {
    "QTS_DATABASE_TLS_MODE": "require", "QTS_REDIS_SENTINELS": "a:1,b:2", "QTS_TRADING_TIME_ZONE": "UTC",
    "QTS_DATA_SOURCE_MODE": "HYBRID", "QTS_SHEETS_TITLES": '{"a": "b"}', "QTS_BOOK_ID_SCOPES": '{"a": "day"}',
    "QTS_BOOK_MARKET_TIME_ZONES": '{"a": "UTC"}', "QTS_REDIS_DEFENSIVE_POSITION_TTL_MS": "9",
}  # fmt: skip


@pytest.mark.parametrize("source", ["environment", "dotenv", "toml"])
def test_every_setting_is_read_from_every_source(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    for knob in KNOBS:
        text = SPECIAL.get(knob.variable) or str(OTHER.get(type(knob.default), "other"))
        with monkeypatch.context() as patch:
            needed = {
                "QTS_REDIS_SENTINELS": "QTS_REDIS_SENTINEL_MASTER",
                "QTS_REDIS_SENTINEL_MASTER": "QTS_REDIS_SENTINELS",
            }
            if knob.variable in needed:
                patch.setenv(needed[knob.variable], "a:1")
            if source == "environment":
                patch.setenv(knob.variable, text)
            elif source == "dotenv":
                (folder / ".env").write_text(f"POSTGRES_PASSWORD=x\n{knob.variable}='{text}'\n", encoding="utf-8")
            else:
                (folder / "qts-data.toml").write_text(toml_line(knob, text), encoding="utf-8")
            value = value_of(load_settings(), knob)
        assert value != knob.default, knob.variable


def toml_line(knob: Knob, text: str) -> str:
    if knob.shape == "json":
        ((key, value),) = json.loads(text).items()
        return f'[{knob.key}]\n{key} = "{value}"\n'
    if knob.shape == "addresses":
        return f"{knob.key} = {json.dumps(text.split(','))}\n"
    bare = isinstance(knob.default, bool | int | float) or text.isdecimal()
    return f"{knob.key} = {text.lower()}\n" if bare else f'{knob.key} = "{text}"\n'


@given(sources=st.sets(st.sampled_from(["environment", "dotenv", "toml"])))
def test_the_first_source_that_gives_a_value_wins(tmp_path_factory: pytest.TempPathFactory, sources: set[str]) -> None:
    folder = tmp_path_factory.mktemp("folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith("QTS_")]:
            patch.delenv(name)
        if "environment" in sources:
            patch.setenv("QTS_DATABASE_POOL_MAX", "11")
        if "dotenv" in sources:
            (folder / ".env").write_text("QTS_DATABASE_POOL_MAX=12\n", encoding="utf-8")
        if "toml" in sources:
            (folder / "qts-data.toml").write_text("[database]\npool_max = 13\n", encoding="utf-8")
        expected = 11 if "environment" in sources else 12 if "dotenv" in sources else 13 if "toml" in sources else 20
        assert load_settings().database.pool_max == expected


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("qts-data.toml", "[database]\npool_mim = 3\n", ["unknown key database.pool_mim", "database.pool_min"]),
        ("qts-data.toml", "[database]\npool_min = 'many'\n", ["database.pool_min in qts-data.toml"]),
        ("qts-data.toml", "[redis]\nport = 0\n", ["QTS_REDIS_PORT must be a whole number of 1 to 65535"]),
        ("qts-data.toml", "[redis]\nprice_ttl_ms = 0\n", ["QTS_REDIS_PRICE_TTL_MS"]),
        ("qts-data.toml", "database_pool_min = 3\n[database]\npool_min = 3\n", ["are one setting"]),
        ("qts-data.toml", "[redis]\nsentinels = 5\n", ["redis.sentinels", "host:port"]),
        ("qts-data.toml", "= 5", ["qts-data.toml is not TOML"]),
        (".env", "QTS_DATABASE_POOL_MIN=30\n", ["QTS_DATABASE_POOL_MIN is 30", "QTS_DATABASE_POOL_MAX is 20"]),
        (".env", "QTS_SHEETS_TITLES=secret\n", ["QTS_SHEETS_TITLES", "is not JSON"]),
        (".env", "QTS_REDIS_SENTINELS=host\n", ["QTS_REDIS_SENTINELS", "'host' is not host:port"]),
        (".env", "a secret line\n", [".env, line 1"]),
        (".env", "QTS_CONFIG_FILE=nowhere.toml\n", ["QTS_CONFIG_FILE names nowhere.toml, which does not exist"]),
    ],
)
def test_wrong_values_in_files_are_errors_by_name(folder: Path, file: str, text: str, words: list[str]) -> None:
    (folder / file).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    for word in words:
        assert word in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_an_error(folder: Path) -> None:
    (folder / ".env").write_bytes("QTS_BOOK_BROKER=한국\n".encode("cp949"))
    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        load_settings()


def test_two_names_of_one_setting_must_agree(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(folder.iterdir())
    monkeypatch.setenv("QTS_CONNECT_TIMEOUT_SECONDS", "3")
    assert load_settings().database.connect_timeout_seconds == load_settings().connect_timeout_seconds == 3
    monkeypatch.setenv("QTS_DATABASE_CONNECT_TIMEOUT_SECONDS", "4")
    with pytest.raises(ConfigurationError, match="are one setting and differ"):
        load_settings()


def test_passed_values_win_and_a_misspelt_one_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(folder.iterdir())
    monkeypatch.setenv("QTS_DATABASE_POOL_MAX", "11")
    assert Settings(database=DatabaseConfig(pool_max=9)).database.pool_max == 9
    partly = Settings(redis=CacheConfig(ttl_ms={CacheType.PRICE: 5})).redis
    assert (partly.ttl(CacheType.PRICE), partly.ttl(CacheType.ORDER)) == (5, 60_000)
    with pytest.raises(ValueError, match="redis_host"):
        Settings(redis_host="x")  # type: ignore[call-arg]


SECRETS = [knob for knob in KNOBS if knob.secret]


def test_config_shows_sources_and_hides_secrets(qts_data: Run, tmp_path: Path) -> None:
    assert {knob.variable for knob in SECRETS} >= {"QTS_DATABASE_URL", "QTS_REDIS_URL", "QTS_REDIS_PASSWORD"}
    secrets = {knob.variable: f"redis://u:hush@{knob.path[0]}" for knob in SECRETS}
    secrets["QTS_DATABASE_URL"] = "postgresql://u:hush@server/qts?password=hush"
    (tmp_path / "qts-data.toml").write_text("[redis]\nport = 6380\n", encoding="utf-8")
    (tmp_path / ".env").write_text("QTS_BOOK_BROKER=kis\nQTS_TYPO=1\nPOSTGRES_PASSWORD=hush\n", encoding="utf-8")
    shown = qts_data("config", **secrets)
    assert shown.returncode == 0, shown.stderr
    assert "hush" not in shown.stdout + shown.stderr
    assert "server/qts" in shown.stdout
    assert "QTS_TYPO" in shown.stderr
    printed = json.loads(qts_data("config", "--json", **secrets).stdout)
    assert "hush" not in str(printed)
    sources = {one["variable"]: (one["value"], one["source"]) for one in printed["settings"]}
    assert sources["QTS_REDIS_PORT"] == ("6380", "qts-data.toml")
    assert sources["QTS_BOOK_BROKER"] == ("kis", ".env")
    assert sources["QTS_REDIS_PASSWORD"] == ("(hidden)", "environment")
    assert sources["QTS_REDIS_DB"] == ("0", "default")
    assert printed["unknown"] == ["QTS_TYPO"]


def test_the_page_of_settings_is_that_of_the_code() -> None:
    """`python -m scripts.settings_page` writes it."""
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text
