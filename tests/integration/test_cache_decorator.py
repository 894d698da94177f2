"""`@cached` on repository methods."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any, assert_type, cast

import pytest
import pytest_asyncio

from qts_data.cache import Breaker, CacheAccess, JsonCodec, MemoryCache, RecordCodec, RedisCache, cached, version_text
from qts_data.cache.aside import CacheAside, Plan
from qts_data.cache.codec import POSITION
from qts_data.cache.manager import position_version
from qts_data.cache.near import NearCache
from qts_data.contracts import CacheType, Position
from qts_data.errors import CacheUnavailable, ConfigurationError, DatabaseUnavailable, NotFound
from tests.fixtures.cache_rows import patient, position
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qts_data.cache import Cache, Codec
    from qts_data.cache.port import Fields


class Repository:
    """Returns `row` and counts its reads."""

    def __init__(self, cache: CacheAccess | None) -> None:
        self.cache = cache
        self.reads = 0
        self.row: Any = None
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None

    async def _read(self) -> Any:
        self.reads += 1
        found = self.row
        await asyncio.sleep(0)
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return found

    @cached(
        CacheType.POSITION,
        ttl_ms=600_000,
        key=lambda symbol, account="main": (symbol, account),
        codec=POSITION,
        version=position_version,
        none_version=version_text(0),
    )
    async def find_position(self, symbol: str, account: str = "main") -> Position | None:
        """The position of an account."""
        assert symbol
        assert account
        return await self._read()  # type: ignore[no-any-return]

    @cached(CacheType.RISK, key=lambda name: name, ttl_ms=30, stale_if_error_ms=4_000)
    async def find_limit(self, name: str) -> list[int] | None:
        assert name
        return await self._read()  # type: ignore[no-any-return]

    @cached(CacheType.STRATEGY, key=lambda name: name, negative=False)
    async def find_strategy(self, name: str) -> str | None:
        assert name
        return await self._read()  # type: ignore[no-any-return]


@pytest_asyncio.fixture(params=["memory", "redis"])
async def repository(request: pytest.FixtureRequest) -> AsyncIterator[Repository]:
    cache: Cache
    if request.param == "memory":
        cache = MemoryCache()
    else:
        cache = RedisCache(patient(url=request.getfixturevalue("redis_url")))
    yield Repository(CacheAccess(CacheAside(cache, Breaker(5, 60), keep_seconds=60), "t:"))
    await cache.close()


async def settle(repository: Repository) -> None:
    assert repository.cache is not None
    await repository.cache.aside.settle()


async def test_cached_method_is_called_once_and_keeps_its_docs(repository: Repository) -> None:
    """The decorated method runs once for equal arguments. Its name and docstring stay those of the method."""
    repository.row = position(1)
    for _ in range(3):
        assert await repository.find_position("S") == position(1)
        await settle(repository)
    assert await repository.find_position("S", account="main") == position(1)
    assert repository.reads == 1
    assert Repository.find_position.__name__ == "find_position"
    assert Repository.find_position.__doc__ == "The position of an account."


async def test_arguments_make_the_key_however_they_are_given(repository: Repository) -> None:
    repository.row = position(1)
    await repository.find_position("S", "second")
    await settle(repository)
    await repository.find_position(symbol="S", account="second")
    assert repository.reads == 1
    await repository.find_position("S")
    assert repository.reads == 2


async def test_none_is_cached_where_it_is_wanted(repository: Repository) -> None:
    for _ in range(2):
        assert await repository.find_position("S") is None
        assert await repository.find_strategy("s") is None
        await settle(repository)
    assert repository.reads == 3


async def test_without_a_cache_the_method_is_as_if_not_decorated() -> None:
    repository = Repository(None)
    repository.row = "x"
    assert [await repository.find_strategy("s") for _ in range(2)] == ["x", "x"]
    assert repository.reads == 2


async def test_a_thousand_concurrent_misses_are_one_call(repository: Repository) -> None:
    repository.row = "x"
    found = await asyncio.gather(*(repository.find_strategy("a") for _ in range(1000)))
    assert found == ["x"] * 1000
    assert repository.reads == 1


async def test_errors_of_the_method_reach_all_and_are_not_cached(repository: Repository) -> None:
    repository.error, repository.hold = NotFound("none"), asyncio.Event()
    tasks = [asyncio.ensure_future(repository.find_strategy("a")) for _ in range(3)]
    await eventually(lambda: repository.reads == 1)
    for _ in range(20):
        await asyncio.sleep(0)
    repository.hold.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(item, NotFound) for item in found)
    assert repository.reads == 1
    repository.error, repository.row = None, "x"
    assert await repository.find_strategy("a") == "x"


async def test_invalidation_keeps_out_values_read_before_it(repository: Repository) -> None:
    assert repository.cache is not None
    repository.row = "old"
    hold = repository.hold = asyncio.Event()
    slow = asyncio.ensure_future(repository.find_strategy("a"))
    await eventually(lambda: repository.reads == 1)
    repository.row, repository.hold = "new", None
    await repository.cache.invalidate(CacheType.STRATEGY, "a")
    assert await repository.find_strategy("a") == "new"
    hold.set()
    assert await slow == "new"
    await settle(repository)
    assert await repository.find_strategy("a") == "new"


async def test_expired_value_is_served_while_the_database_is_down(repository: Repository) -> None:
    """An expired value is served after `DatabaseUnavailable`, and after no other error."""
    repository.row = [1]
    await repository.find_limit("a")
    await settle(repository)
    await asyncio.sleep(0.035)
    repository.error = DatabaseUnavailable("down")
    assert await repository.find_limit("a") == [1]
    repository.error = NotFound("gone")
    with pytest.raises(NotFound):
        await repository.find_limit("a")
    repository.error, repository.row = None, [2]
    assert await repository.find_limit("a") == [2]


async def test_a_stale_value_from_before_a_change_is_not_served(repository: Repository) -> None:
    assert repository.cache is not None
    repository.row = [1]
    await repository.find_limit("a")
    await settle(repository)
    repository.cache.aside.changed(repository.cache.keys.key(CacheType.RISK, "a"))
    await asyncio.sleep(0.035)
    repository.error = DatabaseUnavailable("down")
    with pytest.raises(DatabaseUnavailable):
        await repository.find_limit("a")


# Changes that do not reach the cache


class Deaf(MemoryCache):
    """A cache that cannot be reached during an invalidation."""

    async def invalidate(self, key: str, *, ttl_ms: int, version: str | None = None) -> bool:  # noqa: ARG002
        raise CacheUnavailable("not now")


class Instruments:
    """Reads values whose TTL is longer than the one that the cache was made for."""

    def __init__(self, cache: CacheAccess) -> None:
        self.cache = cache
        self.row = "old"

    @cached(CacheType.STRATEGY, key=lambda name: (name, "long"), ttl_ms=600_000, jitter=False)
    async def find(self, name: str) -> str:
        assert name
        return self.row


@pytest.mark.parametrize("given_ttl", [None, 60_000, 600_000])
@pytest.mark.parametrize("known", [False, True], ids=["not read before", "read before"])
async def test_change_is_remembered_while_an_old_value_may_live(*, known: bool, given_ttl: int | None) -> None:
    """A process keeps the fence of a change for as long as an older value may be served anywhere."""
    server, time_over = Deaf(), 0.05
    one, other = (CacheAccess(CacheAside(server, Breaker(5, 60), keep_seconds=time_over)) for _ in range(2))
    here, elsewhere = Instruments(one), Instruments(other)
    assert await elsewhere.find("a") == "old"
    await other.aside.settle()
    if known:
        assert await here.find("a") == "old"
    here.row = "new"
    if given_ttl is None:
        one.aside.changed(one.keys.key(CacheType.STRATEGY, "a", "long"))
    else:
        await one.invalidate(CacheType.STRATEGY, "a", "long", ttl_ms=given_ttl)
    await asyncio.sleep(2 * time_over)
    one.aside.changed("another key")  # a change drops expired fences
    assert await here.find("a") == "new"


async def test_value_read_before_a_change_is_not_kept_near_after_it() -> None:
    near = NearCache(10)
    aside = CacheAside(Deaf(), Breaker(5, 60), keep_seconds=60, near=near)
    plan: Plan[str] = Plan(codec=JsonCodec(), ttl_ms=60_000, near=True)
    rows = ["old"]

    async def load() -> str:
        return rows[0]

    assert await aside.fetch("strat:{a}", plan, load) == "old"
    rows[0] = "new"
    aside.changed("strat:{a}")
    await aside.settle()
    assert await aside.fetch("strat:{a}", plan, load) == "new"
    await aside.settle()
    assert await aside.fetch("strat:{a}", plan, load) == "new"


class Near:
    """Keeps its values in the near cache."""

    def __init__(self, cache: CacheAccess) -> None:
        self.cache = cache
        self.row = 0

    @cached(CacheType.STRATEGY, key=lambda name: (name, "near"), near=True)
    async def find(self, name: str) -> int:
        assert name
        return self.row

    @cached(CacheType.ORDER, key=lambda name: (name, "near"), near=True)
    async def find_of_a_kind_that_is_never_near(self, name: str) -> int:
        assert name
        return self.row


@pytest.mark.parametrize("prefix", ["t:", "other:"])
async def test_only_values_that_the_server_tracks_are_kept_near(redis_url: str, prefix: str) -> None:
    near = NearCache(10)
    cache = RedisCache(patient(url=redis_url, prefix="t:"), near=near)
    aside = CacheAside(cache, Breaker(5, 60), keep_seconds=60, near=near)
    here = Near(CacheAccess(aside, prefix))
    for ask in (here.find, here.find_of_a_kind_that_is_never_near):

        async def is_near(ask: Any = ask) -> bool:
            before = aside.counters.near_hits
            await ask("a")
            await aside.settle()
            return aside.counters.near_hits > before

        if ask == here.find and prefix == "t:":
            await eventually(is_near)
        else:
            for _ in range(3):
                await is_near()
            assert not await is_near()
    await cache.close()


# Values that their holders change


async def test_value_changed_by_one_caller_reaches_no_other_caller(repository: Repository) -> None:
    repository.row = {"lots": [1, 2]}
    first = await repository.find_strategy("a")
    cast("Any", first)["lots"].append(999)
    await settle(repository)
    repository.row = None
    for _ in range(2):
        found = cast("Any", await repository.find_strategy("a"))
        assert found == {"lots": [1, 2]}
        found["lots"].append(999)
    assert repository.reads == 1


async def test_callers_that_wait_together_do_not_share_one_list(repository: Repository) -> None:
    repository.row, repository.hold = [[1], [2]], asyncio.Event()

    async def change() -> Any:
        found = cast("Any", await repository.find_limit("a"))
        before = [list(item) for item in found]
        found[0].append(999)
        return before

    tasks = [asyncio.ensure_future(change()) for _ in range(5)]
    await eventually(lambda: repository.reads == 1)
    for _ in range(20):
        await asyncio.sleep(0)
    repository.hold.set()
    assert await asyncio.gather(*tasks) == [[[1], [2]]] * 5


async def test_value_that_its_codec_refuses_is_not_cached(repository: Repository) -> None:
    """The caller gets the value. Each call reads it again, since it cannot be cached."""
    for value in (1.5, "half a pair \ud800"):
        repository.row = value
        before = repository.reads
        for _ in range(2):
            assert await repository.find_strategy("a") == value
            await settle(repository)
        assert repository.reads == before + 2


@pytest.mark.parametrize("values", [{"ttl_ms": 0}, {"stale_if_error_ms": -1}])
def test_impossible_duration_is_refused_at_decoration(values: dict[str, int]) -> None:
    """`cached` raises `ConfigurationError` for an impossible time when the decorator is applied."""
    with pytest.raises(ConfigurationError):
        cached(CacheType.RISK, key=str, **cast("dict[str, Any]", values))


@dataclasses.dataclass(frozen=True)
class Lots:
    """A record that can be changed nevertheless."""

    sizes: list[int]


@pytest.mark.parametrize("own_copy", [False, True])
async def test_near_values_are_each_callers_own(redis_url: str, *, own_copy: bool) -> None:
    class LotsCodec:
        """A codec of a user that does not declare whether it copies."""

        def encode(self, value: Lots) -> dict[str, str]:
            return {"sizes": ",".join(map(str, value.sizes))}

        def decode(self, found: Fields) -> Lots:
            return Lots([int(text) for text in found["sizes"].split(",")])

    codec: Codec[Lots] = RecordCodec(Lots, 1) if own_copy else LotsCodec()
    near = NearCache(10)
    aside = CacheAside(RedisCache(patient(url=redis_url), near=near), Breaker(5, 60), keep_seconds=60, near=near)
    plan = Plan(codec=codec, ttl_ms=60_000, near=True)

    async def load() -> Lots:
        return Lots([1, 2])

    async def is_near() -> bool:
        before = aside.counters.near_hits
        found = await aside.fetch("strat:{a}", plan, load)
        assert found == Lots([1, 2])
        found.sizes.append(999)
        await aside.settle()
        return aside.counters.near_hits > before

    await eventually(is_near)
    assert await is_near()
    await aside.cache.close()


async def signatures(repository: Repository) -> None:
    """Never called. mypy checks it, and reports an ignore that is not needed."""
    assert_type(await repository.find_position("S", account="main"), Position | None)
    assert_type(await repository.find_limit(name="a"), list[int] | None)
    await repository.find_position(1)  # type: ignore[arg-type]
    await repository.find_limit("a", 2)  # type: ignore[call-arg]
