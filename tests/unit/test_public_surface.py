"""Names that an engine imports: type hints, frames of bars, a user's program under mypy."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import typing
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import qts_data
from qts_data import OHLCV, Bars, CacheConfig, CacheManager, Database, Reader, UnitOfWork
from qts_data.cache import Loaders, MemoryCache
from qts_data.contracts import CacheType
from qts_data.errors import ConfigurationError, InvalidRecord
from tests.fixtures.fix_cli import ROOT, clean_environment

if typing.TYPE_CHECKING:
    from pathlib import Path


def records() -> list[type]:
    found: list[type] = []
    for module in pkgutil.walk_packages(qts_data.__path__, "qts_data."):
        if module.name == "qts_data.__main__" or "migrations.versions" in module.name:
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            if not isinstance(kind, type) or kind.__module__ != module.name or name.startswith("_"):
                continue
            if "__dataclass_fields__" in vars(kind):
                found.append(kind)
    return found


def test_type_hints_of_every_record_can_be_read() -> None:
    every = records()
    assert len(every) > 80
    for kind in every:
        assert set(typing.get_type_hints(kind)) >= {
            field.name for field in dataclasses.fields(typing.cast("typing.Any", kind))
        }, kind


def bar(minute: int, close: str) -> OHLCV:
    value = Decimal(close)
    return OHLCV(
        time=dt.datetime(2026, 11, 20, tzinfo=dt.UTC) + dt.timedelta(minutes=minute), symbol="005930", source="x",
        open=value, high=value, low=value, close=value, volume=Decimal("99999999999999999999.12345678"), tick_count=3,
    )  # fmt: skip


def test_bars_as_columns_are_exact() -> None:
    """The last bar alone has eight places: Polars would cut them if it inferred the scale from the first rows."""
    bars = Bars([bar(minute, "1") for minute in range(200)] + [bar(200, "0.12345678")])
    expected = [dataclasses.asdict(one) for one in bars]
    for frame in (pl.DataFrame(bars), bars.as_polars()):
        assert frame.rows(named=True) == expected
        assert frame.schema["close"] == pl.Decimal(18, 8)
        assert frame.schema["time"] == pl.Datetime("us", "UTC")
    for table in (pa.table(bars), bars.as_arrow()):
        assert table.to_pylist() == expected
    assert bars.as_pandas()["close"].tolist() == [one.close for one in bars]
    assert pd.DataFrame(bars)["close"].tolist() == [one.close for one in bars]
    assert Bars().as_polars().schema == bars.as_polars().schema


def test_bars_are_read_like_a_list() -> None:
    one, two = bar(0, "1"), bar(1, "2")
    bars = Bars([one, two])
    assert bars == [one, two] == list(bars)
    assert (len(bars), bars[0], bars[-1], two in bars) == (2, one, two, True)
    assert bars[1:] == [two]
    assert list(reversed(bars)) == [two, one]
    assert bars + Bars([one]) == [one, two, one]
    assert not Bars()
    assert hash(Bars([one])) == hash(Bars([one]))


async def test_a_database_takes_the_text_of_a_url() -> None:
    async with Database("postgresql://qts@localhost/qts") as database:
        assert database.engine.url.drivername == "timescaledb+psycopg"
    with pytest.raises(ConfigurationError, match="only PostgreSQL"):
        Database("mysql://localhost/qts")


async def nothing(*_: object) -> None:
    return None


async def test_access_of_a_manager_sets_classes_apart() -> None:
    loaders = Loaders(position=nothing, risk=nothing, strategy=nothing, record_fill=nothing)  # type: ignore[arg-type]
    async with CacheManager(CacheConfig(prefix="qts:"), loaders, cache=MemoryCache()) as manager:
        first, second = manager.access("instruments"), manager.access("fees")
        keys = {one.key(CacheType.STRATEGY, "005930") for one in (first, second)}
        assert len(keys) == 2
        assert all(key.startswith("qts:strat:") for key in keys)
        assert first.aside is manager.aside
        with pytest.raises(InvalidRecord):
            manager.access("")


def test_every_repository_of_a_scope_is_described() -> None:
    for scope in (UnitOfWork, Reader):
        names = [name for name in dir(scope) if not name.startswith("_")]
        assert {"ledger", "positions", "ticks", "daily_bars", "minute_bars"} <= set(names)
        assert not {"mark", "release", "undo", "committed", "doubted", "finish", "close"} & set(names)
        for name in names:
            assert inspect.getdoc(inspect.getattr_static(scope, name)), f"{scope.__name__}.{name}"


def test_a_users_program_is_checked_by_mypy(tmp_path: Path) -> None:
    """mypy reports exactly the lines that end in `# E: code`, with that code."""
    program = (ROOT / "tests" / "fixtures" / "user_program.py.txt").read_text(encoding="utf-8")
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(ROOT / ".mypy_cache" / "user"),
         "--follow-imports=silent", "program.py"],
        cwd=tmp_path, env=clean_environment(MYPYPATH=str(ROOT)), capture_output=True, encoding="utf-8", check=False,
        timeout=500,
    )  # fmt: skip
    found = set(re.findall(r"^program\.py:(\d+): error: .*\[([\w-]+)\]$", run.stdout, re.MULTILINE))
    wanted = {
        (str(number), line.partition("# E: ")[2])
        for number, line in enumerate(program.splitlines(), start=1)
        if "# E: " in line
    }
    assert found == wanted, run.stdout + run.stderr
