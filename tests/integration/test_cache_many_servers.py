"""Redis Cluster and Sentinel: keys on three masters, slots that move, masters that die and change."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from qts_data.cache import MISSING, CacheManager, RedisCache
from qts_data.cache.keys import Keys
from qts_data.cache.servers import slot_of
from qts_data.contracts import CacheType
from qts_data.errors import CacheError, CacheUnavailable
from tests.fixtures.cache_rows import Source, patient, position, quote
from tests.fixtures.factories import FillFactory
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from tests.fixtures.redis_process import RedisCluster, SentinelSet

LONG = 60_000
SYMBOLS = [f"S{n}" for n in range(30)]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest_asyncio.fixture
async def cache(redis_cluster: RedisCluster) -> AsyncIterator[RedisCache]:
    made = RedisCache(patient(url=redis_cluster.url, cluster=True))
    yield made
    await made.close()


def manager_on(cluster: RedisCluster, source: Source, near: int = 0) -> CacheManager:
    return CacheManager(patient(url=cluster.url, cluster=True, near_entries=near), source.loaders)


def owners(cluster: RedisCluster, names: list[str]) -> set[int]:
    return {cluster.owner(slot_of(name)).port for name in names}


def _id_of(client: redis.Redis) -> Any:
    return client.execute_command("CLUSTER", "MYID")  # type: ignore[no-untyped-call]


def _give(client: redis.Redis, slot: int, node: str) -> None:
    client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", node)  # type: ignore[no-untyped-call]


def _keys_in(client: redis.Redis, slot: int) -> Any:
    return client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)  # type: ignore[no-untyped-call]


def test_keys_of_one_symbol_are_in_one_slot() -> None:
    keys = Keys("qts:")
    for symbol in ("005930", "BTC{USDT}", "%", "한글"):
        names = [
            keys.key(CacheType.PRICE, symbol),
            keys.position(symbol),
            keys.position(symbol, "b"),
            *keys.book(symbol),
        ]
        assert len({slot_of(name) for name in names}) == 1


async def test_a_precheck_reads_from_three_masters(redis_cluster: RedisCluster, source: Source) -> None:
    keys = Keys()
    async with manager_on(redis_cluster, source) as manager:
        used = set()
        for symbol in SYMBOLS:
            strategy = f"strategy-{symbol}"
            names = [keys.position(symbol), keys.key(CacheType.RISK, "main"), keys.key(CacheType.STRATEGY, strategy)]
            used.add(len(owners(redis_cluster, names)))
            source.elsewhere(1, symbol)
            first = await manager.precheck(symbol, "main", strategy)
            assert (first.quote, first.position) == (None, position(1, symbol))
            await manager.aside.settle()
            await manager.push_price(quote(symbol=symbol))
            reads = source.reads
            second = await manager.precheck(symbol, "main", strategy)
            assert second.quote is not None
            assert second.position == position(1, symbol)
            assert second.risk is not None
            assert second.strategy is not None
            assert source.reads == reads
        assert used == {1, 2, 3}


async def test_a_fill_is_fenced_on_every_master(redis_cluster: RedisCluster, source: Source) -> None:
    async with manager_on(redis_cluster, source) as manager, manager_on(redis_cluster, Source()) as other:
        for symbol in SYMBOLS:
            for _ in range(2):
                await manager.update_position_on_fill(FillFactory.build(symbol=symbol))
            assert await other.get_position(symbol) == position(2, symbol)
            other.position_committed(position(1, symbol), time.monotonic())
        await other.aside.settle()
        assert other.get_stats().refused == len(SYMBOLS)


async def test_near_cache_is_notified_by_every_master(redis_cluster: RedisCluster, source: Source) -> None:
    async with manager_on(redis_cluster, source, near=100) as manager, manager_on(redis_cluster, Source()) as other:
        for version in (1, 2):
            for symbol in SYMBOLS:
                other.position_committed(position(version, symbol), time.monotonic())
            await other.aside.settle()

            async def heard(version: int = version) -> bool:
                return [await manager.get_position(one) for one in SYMBOLS] == [position(version, s) for s in SYMBOLS]

            await eventually(heard)
            assert await heard()
        assert manager.get_stats().near_hits >= 2 * len(SYMBOLS)
        assert source.reads == 0


async def test_a_slot_that_moved_is_followed(cache: RedisCache, redis_cluster: RedisCluster) -> None:
    key = "k{moved}"
    slot = slot_of(key)
    old = redis_cluster.owner(slot)
    new = next(server for server in redis_cluster.servers if server is not old)
    await cache.set(key, {"a": "1"}, ttl_ms=LONG)
    with old.client() as at_old, new.client() as at_new:
        ids = {server: _id_of(client) for server, client in ((old, at_old), (new, at_new))}
        clients = [server.client() for server in redis_cluster.servers]
        try:
            at_new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[old])
            at_old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[new])
            # For a key that the old owner lacks, the client asks the new one (ASK).
            await cache.set("k2{moved}", {"a": "2"}, ttl_ms=LONG)
            assert _keys_in(at_new, slot) == 1
            assert await cache.get("k2{moved}") == {"a": "2"}
            assert await cache.get(key) == {"a": "1"}
            at_old.execute_command("MIGRATE", "127.0.0.1", new.port, key, 0, 5000)
            assert await cache.get(key) == {"a": "1"}
            for client in clients:
                _give(client, slot, ids[new])
            # MOVED.
            assert await cache.get(key) == {"a": "1"}
            assert not await cache.set(key, {"a": "0"}, ttl_ms=LONG, version="0")
            assert await cache.delete(key, "k2{moved}") == 2
        finally:
            for client in clients:
                _give(client, slot, ids[old])
                client.close()
    assert await cache.get(key) is MISSING
    assert await cache.set(key, {"a": "3"}, ttl_ms=LONG)
    assert await cache.get(key) == {"a": "3"}


async def test_a_dead_master_costs_its_own_keys_only(redis_cluster: RedisCluster, source: Source) -> None:
    dead = redis_cluster.servers[2]
    lost, kept = (
        next(s for s in SYMBOLS if (redis_cluster.owner(slot_of(Keys().position(s))) is dead) is gone)
        for gone in (True, False)
    )
    async with manager_on(redis_cluster, source) as manager:
        for symbol in (lost, kept):
            await manager.update_position_on_fill(FillFactory.build(symbol=symbol))
        dead.kill()
        try:
            for _ in range(8):
                assert await manager.get_position(lost) == position(1, lost)
                assert await manager.get_position(kept) == position(1, kept)
            assert source.reads == 8
            assert not manager.is_circuit_open()
            assert not (await manager.health_check()).healthy
        finally:
            dead.start()
            redis_cluster.wait()
        await manager.get_position(lost)
        await manager.aside.settle()
        reads = source.reads
        assert await manager.get_position(lost) == position(1, lost)
        assert source.reads == reads


async def test_more_masters_than_connections_are_an_error(redis_cluster: RedisCluster) -> None:
    """With fewer connections than masters a read of many keys raises an error that names the setting."""
    cache = RedisCache(patient(url=redis_cluster.url, cluster=True, max_connections=1))
    with pytest.raises(CacheUnavailable, match="max_connections"):
        await cache.get_many([f"k{n}" for n in range(20)])
    await cache.close()


async def test_server_outside_a_cluster_is_named(redis_url: str) -> None:
    cache = RedisCache(patient(url=redis_url, cluster=True))
    with pytest.raises(CacheUnavailable, match="cluster"):
        await cache.get("k")
    await cache.close()


async def test_sentinel_names_the_master_and_its_successor(sentinels: SentinelSet, source: Source) -> None:
    """The cache follows a failover to the master that the Sentinel names next."""
    config = patient(
        sentinels=(("127.0.0.1", 1), ("127.0.0.1", sentinels.sentinel.port)), sentinel_master="main",
        sentinel_password=sentinels.password, breaker_recovery_seconds=0.1,
    )  # fmt: skip
    async with CacheManager(config, source.loaders) as manager:
        await manager.update_position_on_fill(FillFactory.build(symbol="S"))
        with sentinels.master.client() as client:
            assert client.exists("pos:{S}")
        sentinels.fail_over()
        deadline = time.monotonic() + 120
        version = 1
        while True:
            await manager.update_position_on_fill(FillFactory.build(symbol="S"))
            version += 1
            assert await manager.get_position("S") == position(version, "S")
            with sentinels.replica.client() as client:
                if client.info("replication")["role"] == "master" and client.hget("pos:{S}", "_ver"):
                    found = await manager.cache.get("pos:{S}") if not manager.is_circuit_open() else None
                    if isinstance(found, dict) and f'"last_ledger_id":{version}' in found["json"]:
                        break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_sentinel_never_gets_the_password_of_the_master(sentinels: SentinelSet) -> None:
    """A Sentinel that wants a password of its own gets an error, not the master's password."""
    where = (("127.0.0.1", sentinels.sentinel.port),)
    cache = RedisCache(patient(sentinels=where, sentinel_master="main", password=sentinels.password))
    with pytest.raises(CacheError, match=r"no Sentinel names a master main: .*[Aa]uth"):
        await cache.get("k")
    await cache.close()


async def test_sentinels_that_do_not_answer_are_an_unavailable_cache() -> None:
    cache = RedisCache(patient(sentinels=(("127.0.0.1", 1),), sentinel_master="main"))
    with pytest.raises(CacheError, match="Sentinel"):
        await cache.get("k")
    await cache.close()
