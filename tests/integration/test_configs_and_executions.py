"""Strategies, risk limits, execution logs."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from qts_data.contracts import ExecutionLog
from qts_data.contracts.config import parameter_from_text, parameter_to_text
from qts_data.errors import InvalidRecord, NotFound
from qts_data.repositories import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

    from qts_data.contracts import ParameterValue

NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


@pytest_asyncio.fixture
async def book(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


async def test_parameters_come_back_in_their_types(book: Database) -> None:
    given: dict[str, ParameterValue] = {
        "name": "grid",
        "levels": 12,
        "step": Decimal("0.00000001"),
        "live": True,
        "hours": {"open": ["09:00", 15], "halts": None},
    }
    async with book.transaction() as uow:
        await uow.strategies.upsert_parameters("grid", given, descriptions={"step": "relative"})
        await uow.strategies.upsert_parameters("grid", {"step": Decimal("0.01"), "live": False})
        await uow.strategies.upsert_parameters("other", {"name": "x"})
    async with book.reader() as reader:
        found = await reader.strategies.get_parameters("grid")
        step = await reader.strategies.find_parameter("grid", "step")
        assert await reader.strategies.find_parameter("grid", "nothing") is None
        assert [one.strategy_id for one in await reader.strategies.list_parameters()] == ["grid"] * 5 + ["other"]
        with pytest.raises(NotFound, match="'absent' has no parameters"):
            await reader.strategies.get_parameters("absent")
    assert found == given | {"step": Decimal("0.01"), "live": False}
    assert {name: type(value) for name, value in found.items()} == {name: type(value) for name, value in given.items()}
    assert step is not None
    assert step.description == "relative"


async def test_a_wrong_parameter_sets_none(book: Database) -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value, reason in (
        (0.1, "float"),
        (Decimal("NaN"), "finite"),
        ({"a": [0.1]}, "float"),
        ({"a": [(0.1,)]}, "float"),
        ([object()], "JSON"),
        ([Decimal(1)], "JSON"),
        (endless, "JSON"),
        (10**5000, "too large"),
        ([10**5000], "JSON"),
        ([{1: "x"}], "key 1, which is not a string"),
        ("\ud800", "surrogate"),
        ("a\0b", "NUL"),
        (["\ud800"], "surrogate"),
        ({"\ud800": 1}, "surrogate"),
    ):
        with pytest.raises(InvalidRecord, match=f"bad: .*{reason}"):
            async with book.transaction() as uow:
                await uow.strategies.upsert_parameters("s", {"good": 1, "bad": value})  # type: ignore[dict-item]
    for text in ("\ud800", "a\0b"):
        async with book.transaction() as uow:
            with pytest.raises(InvalidRecord, match="description: "):
                await uow.strategies.upsert_parameters("s", {"good": 1}, descriptions={"good": text})
            with pytest.raises(InvalidRecord, match="description: "):
                await uow.risk_configs.upsert_limit("x", Decimal(1), text)
    async with book.reader() as reader:
        assert await reader.strategies.list_parameters() == []
        assert await reader.risk_configs.list_limits() == []


async def test_json_keeps_values_that_text_could_not_hold(book: Database) -> None:
    given: dict[str, ParameterValue] = {"escaped": {"a\0b": ["\0"]}}
    async with book.transaction() as uow:
        await uow.strategies.upsert_parameters("s", given | {"pair": [("x", 1)]})
    async with book.reader() as reader:
        assert await reader.strategies.get_parameters("s") == given | {"pair": [["x", 1]]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"))
    | st.lists(json_values, max_size=3)
)
def test_every_value_survives_its_text(value: Any) -> None:
    text, value_type = parameter_to_text("p", value)
    again = parameter_from_text("p", text, value_type)
    assert again == value
    assert type(again) is type(value)


async def test_value_of_another_type_is_named(book: Database) -> None:
    async with book.transaction() as uow:
        await uow.connection.exec_driver_sql(
            "INSERT INTO strategies (strategy_id, param_name, value, value_type) VALUES ('s', 'size', 'ten', 'int')"
        )
    async with book.reader() as reader:
        with pytest.raises(InvalidRecord, match="size: 'ten' is not of type int"):
            await reader.strategies.get_parameters("s")


async def test_limits_have_a_history_of_every_writer(book: Database) -> None:
    async with book.transaction() as uow:
        await uow.risk_configs.upsert_limit("max_loss", Decimal(5), "KRW million a day")
    async with book.transaction() as uow:
        await uow.risk_configs.upsert_limit("max_loss", Decimal("7.5"))
        await uow.risk_configs.upsert_limit("max_loss", Decimal("7.5"), "the same value again")
    async with book.transaction() as uow:  # by hand, in Adminer, at 3 a.m.
        await uow.connection.exec_driver_sql("UPDATE risk_configs SET value = 999")
    async with book.reader() as reader:
        limit = await reader.risk_configs.get_limit("max_loss")
        changes = await reader.risk_configs.list_changes("max_loss")
    assert (limit.value, limit.description) == (Decimal(999), "the same value again")
    assert [(one.old_value, one.new_value) for one in changes] == [
        ("7.50000000", "999.00000000"),
        ("5.00000000", "7.50000000"),
        (None, "5.00000000"),
    ]
    assert all(one.value_type == "decimal" and one.changed_by and one.changed_at.tzinfo for one in changes)
    async with book.transaction() as uow:
        await uow.risk_configs.delete_limit("max_loss")
        assert await uow.risk_configs.list_limits() == []
        assert (await uow.risk_configs.list_changes("max_loss", limit=1))[0].new_value is None
        with pytest.raises(NotFound, match="no risk limit 'max_loss'"):
            await uow.risk_configs.delete_limit("max_loss")
        with pytest.raises(NotFound, match="no risk limit 'max_loss'"):
            await uow.risk_configs.get_limit("max_loss")
        with pytest.raises(InvalidRecord, match=r"value: .* digits after the point"):
            await uow.risk_configs.upsert_limit("x", Decimal("1E-9"))


async def test_parameters_have_a_history_too(book: Database) -> None:
    async with book.transaction() as uow:
        await uow.strategies.upsert_parameters("s", {"a": 1, "b": "x"})
        await uow.strategies.upsert_parameters("s", {"a": Decimal(1)})
        await uow.strategies.delete_parameter("s", "b")
        with pytest.raises(NotFound, match="no parameter 'b'"):
            await uow.strategies.delete_parameter("s", "b")
    async with book.reader() as reader:
        assert [
            (one.param_name, one.old_value, one.new_value, one.value_type)
            for one in await reader.strategies.list_changes("s")
        ] == [
            ("b", "x", None, "string"),
            ("a", "1", "1", "decimal"),
            ("b", None, "x", "string"),
            ("a", None, "1", "int"),
        ]
        assert len(await reader.strategies.list_changes("s", "a")) == 2


def stage(minute: int, ms: str, stage: str = "SUBMIT", **values: Any) -> ExecutionLog:
    fields: dict[str, Any] = {"order_id": "O1", "symbol": "005930", "success": True, "latency_ms": Decimal(ms)}
    return ExecutionLog(time=NOON + dt.timedelta(minutes=minute), stage=stage, **fields | values)


async def test_stages_are_appended_and_summed_up(book: Database) -> None:
    logs = [stage(minute, str(minute + 1)) for minute in range(4)]
    logs += [stage(5, "7.125", "FILL", order_id="O2", success=False, error_code="REJECTED")]
    async with book.transaction() as uow:
        assert await uow.executions.append(logs) == 5
        assert await uow.executions.append([]) == 0
    async with book.reader() as reader:
        assert await reader.executions.list_stages("O1") == logs[:4]
        fill, submit = await reader.executions.stage_latency(NOON, NOON + dt.timedelta(minutes=6))
        assert await reader.executions.stage_latency(NOON, NOON + dt.timedelta(minutes=5)) == [submit]
        assert await reader.executions.stage_latency(NOON, NOON + dt.timedelta(hours=1), stage="FILL") == [fill]
        assert await reader.executions.stage_latency(NOON, NOON + dt.timedelta(hours=1), symbol="other") == []
        hours = await reader.executions.hourly_metrics(NOON, NOON + dt.timedelta(hours=1))
        assert await reader.executions.hourly_metrics(NOON, NOON + dt.timedelta(hours=1), stage="FILL") == hours[:1]
    assert (submit.count, submit.failure_count) == (4, 0)
    assert (submit.avg_ms, submit.p50_ms) == (Decimal("2.5"), Decimal("2.5"))
    assert submit.max_ms == 4
    assert (submit.p95_ms, submit.p99_ms) == (Decimal("3.85"), Decimal("3.97"))
    assert (fill.count, fill.failure_count, fill.max_ms) == (1, 1, Decimal("7.125"))
    assert [(hour.stage, hour.avg_latency_ms, hour.success_count, hour.failure_count) for hour in hours] == [
        ("FILL", Decimal("7.125"), 0, 1),
        ("SUBMIT", Decimal("2.5"), 4, 0),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency_ms", Decimal(-1)),
        ("latency_ms", Decimal("0.0001")),
        ("latency_ms", Decimal("NaN")),
        ("success", 1),
        ("order_id", ""),
        ("error_code", "\0"),
        ("symbol", "x" * 65),
    ],
)
def test_a_log_that_cannot_be_stored_is_not_made(field: str, value: Any) -> None:
    with pytest.raises(InvalidRecord) as caught:
        stage(0, "1", **{field: value})
    assert caught.value.field == field


async def test_the_engine_cannot_change_the_history(database_url: URL) -> None:
    url = database_url.update_query_dict({"options": "-c role=qts_engine"})
    async with Database(url) as database:
        async with database.transaction() as uow:
            await uow.risk_configs.upsert_limit("a", Decimal(1))
        for statement in ("UPDATE config_history SET new_value = '2'", "DELETE FROM config_history"):
            with pytest.raises(Exception, match="permission denied") as caught:
                async with database.transaction() as uow:
                    await uow.connection.execute(sa.text(statement))
            assert getattr(caught.value, "sqlstate", None) == "42501"
