"""Limits of an account and of all accounts, and the values that every process gets after a change."""

from __future__ import annotations

import itertools
import random
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from qts_data import bootstrap
from qts_data.contracts import ALL_ACCOUNTS
from qts_data.database import migrations
from qts_data.database.engine import engine
from qts_data.errors import InvalidRecord, NotFound
from qts_data.repositories import Database
from tests.fixtures.cache_rows import patient
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from qts_data.cache import CacheManager

ACCOUNTS = ("main", "futures", "other")


async def test_an_own_limit_goes_before_the_default(database_url: URL) -> None:
    async with Database(database_url) as book, book.transaction() as uow:
        limits = uow.risk_configs
        await limits.upsert_limit("max_order", Decimal(1000), "shares")
        await limits.upsert_limit("max_loss", Decimal(5))
        await limits.upsert_limit("max_order", Decimal(10), account="futures")
        await limits.upsert_limit("only", Decimal(1), account="futures")
        found = {
            account: {one.config_key: one.value for one in await limits.limits_of(account)} for account in ACCOUNTS
        }
        assert found["main"] == found["other"] == {"max_order": 1000, "max_loss": 5}
        assert found["futures"] == {"max_order": 10, "max_loss": 5, "only": 1}
        assert (await limits.get_limit("max_order", "futures")).account == "futures"
        assert (await limits.get_limit("max_order", "main")).account == ALL_ACCOUNTS
        assert (await limits.get_limit("max_order")).value == 1000
        assert [one.config_key for one in await limits.list_limits("futures")] == ["max_order", "only"]
        for account in ("main", ALL_ACCOUNTS):
            with pytest.raises(NotFound, match="no risk limit 'only'"):
                await limits.get_limit("only", account)
        changes = await limits.list_changes("max_order")
        assert [(one.account, one.new_value) for one in changes] == [("futures", "10.00000000"), ("*", "1000.00000000")]
        assert len(await limits.list_changes("max_order", account="futures")) == 1
        await limits.delete_limit("max_order", account="futures")
        assert (await limits.get_limit("max_order", "futures")).value == 1000
        with pytest.raises(NotFound, match="'max_order' of the account 'futures' is set"):
            await limits.delete_limit("max_order", account="futures")
        for account in ("", "x" * 65, "a\0b"):
            with pytest.raises(InvalidRecord, match="account"):
                await limits.upsert_limit("x", Decimal(1), account=account)


async def serves(manager: CacheManager, account: str, wanted: dict[str, Decimal]) -> bool:
    seen = await manager.precheck("005930", account, "s")
    return all(
        dict(found.limits) == wanted if found is not None else not wanted
        for found in (await manager.get_risk(account), seen.risk)
    )


@pytest.mark.parametrize("near", [0, 100])
async def test_a_change_reaches_every_account_in_every_process(database_url: URL, redis_url: str, near: int) -> None:
    """After any order of changes of defaults and own limits, each process soon serves the limits of the table."""
    chance = random.Random(near)
    config = patient(url=redis_url, near_entries=near)
    async with (
        Database(database_url) as book,
        Database(database_url) as elsewhere,
        bootstrap.cache_manager(config, book) as one,
        bootstrap.cache_manager(config, elsewhere) as other,
    ):
        table: dict[tuple[str, str], Decimal] = {}
        for number in range(12):
            for manager, account in itertools.product((one, other), ACCOUNTS):
                await manager.get_risk(account)
            key = chance.choice([ALL_ACCOUNTS, *ACCOUNTS[:2]]), chance.choice(["max_order", "max_loss"])
            async with book.transaction() as uow:
                if key in table and chance.random() < 0.3:
                    await uow.risk_configs.delete_limit(key[1], account=key[0])
                    del table[key]
                else:
                    table[key] = Decimal(number)
                    await uow.risk_configs.upsert_limit(key[1], table[key], account=key[0])
            await one.risk_changed(key[0])
            for account in ACCOUNTS:
                wanted = {name: value for (whose, name), value in table.items() if whose == ALL_ACCOUNTS}
                wanted |= {name: value for (whose, name), value in table.items() if whose == account}
                assert await serves(one, account, wanted)

                async def arrived(account: str = account, wanted: dict[str, Decimal] = wanted) -> bool:
                    return await serves(other, account, wanted)

                if near:  # the message that empties the near cache takes its time
                    await eventually(arrived)
                else:
                    assert await arrived()


def test_limits_of_before_become_the_default_and_go_back(empty_database: URL) -> None:
    migrations.upgrade(empty_database, "0012")
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql("INSERT INTO risk_configs (config_key, value) VALUES ('max_order', 7)")
    migrations.upgrade(empty_database)
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql("INSERT INTO risk_configs VALUES ('max_order', 8, NULL, now(), 'futures')")
        found = connection.execute(sa.text("SELECT account, value FROM risk_configs ORDER BY value")).all()
        history = connection.scalars(sa.text("SELECT account FROM config_history ORDER BY id")).all()
    assert found == [("*", 7), ("futures", 8)]
    assert history == ["*", "futures"]
    migrations.downgrade(empty_database, "0012")
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql("UPDATE risk_configs SET value = 9")
        assert connection.execute(sa.text("SELECT config_key, value FROM risk_configs")).all() == [("max_order", 9)]
        assert connection.scalar(sa.text("SELECT count(*) FROM config_history")) == 4
