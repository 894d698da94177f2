"""Routes: find the server that has a key, by the configured address or by a cluster's map."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from qts_data.cache.link import Link
from qts_data.cache.servers import Address, find_master, first_address, login, slot_of
from qts_data.cache.wire import Refusal, pack
from qts_data.errors import CacheClosed, CacheError, CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qts_data.contracts.cache import CacheConfig

__all__ = ["ClusterRoute", "LinkMaker", "Route", "SingleRoute"]

_SLOTS: Final = 16384
_CLUSTER_SLOTS: Final = pack("CLUSTER", "SLOTS")


class LinkMaker:
    """Makes links that differ only in their address.

    Args:
        config: Timeouts and login.
        preamble: Commands sent on each new connection.
        on_push: Called with each push message of a server.
        on_lost: Called whenever a connection is lost.
    """

    def __init__(
        self,
        config: CacheConfig,
        *,
        preamble: Sequence[bytes],
        on_push: Callable[[list[Any]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.config = config
        self._login = login(config)
        self._preamble = preamble
        self._on_push = on_push
        self._on_lost = on_lost

    def link(self, address: Address | None) -> Link:
        """Return a link to an address. None asks the Sentinels before each connection."""

        async def locate() -> Address:
            return await find_master(self.config) if address is None else address

        return Link(
            locate,
            self._login,
            timeout_seconds=self.config.socket_timeout_seconds,
            connect_timeout_seconds=self.config.connect_timeout_seconds,
            preamble=self._preamble,
            on_push=self._on_push,
            on_lost=self._on_lost,
        )


class Route(Protocol):
    """Finds the link for a key."""

    async def find(self, key: str) -> Link:
        """Return the link to the server that has the key."""
        ...

    def follow(self, link: Link, refusal: Refusal) -> tuple[Link, bool] | None:
        """Return the link of a refusal, and whether ASKING must precede the command, or None if it names no link."""
        ...

    async def everywhere(self) -> list[Link]:
        """Return links to all servers that have keys."""
        ...

    async def close(self) -> None:
        """Close every link."""
        ...


class SingleRoute:
    """The route if all keys are on one server.

    Attributes:
        link: The link to that server.
    """

    def __init__(self, maker: LinkMaker) -> None:
        config = maker.config
        self.link: Link = maker.link(None if config.sentinels else first_address(config))

    async def find(self, key: str) -> Link:  # noqa: ARG002
        """Return the only link."""
        return self.link

    def follow(self, link: Link, refusal: Refusal) -> tuple[Link, bool] | None:
        """Drop the connection to a server that became a replica. The next call finds the new master."""
        if str(refusal).startswith(("READONLY", "MASTERDOWN")):
            link.drop(CacheUnavailable(f"Redis is not a master any more: {refusal}", incident=refusal))
        return None

    async def everywhere(self) -> list[Link]:
        """Return the only link."""
        return [self.link]

    async def close(self) -> None:
        """Close the link."""
        await self.link.close()


class ClusterRoute:
    """The route in a cluster, by the slot of a key. The cluster's map is read again when it proves wrong."""

    def __init__(self, maker: LinkMaker) -> None:
        self._maker = maker
        self._seed = first_address(maker.config)
        self._closed = False
        self._links: dict[Address, Link] = {}
        self._map: list[Address | None] = []
        self._refreshing: asyncio.Task[None] | None = None

    async def find(self, key: str) -> Link:
        """Return the link to the master of the key's slot.

        Raises:
            CacheUnavailable: No server returns the map, or none has the slot.
        """
        if not self._map:
            making = self._refresh()
            done, _ = await asyncio.wait([making], timeout=self._maker.config.socket_timeout_seconds)
            if done and not making.cancelled() and (failure := making.exception()):
                incident = failure.incident if isinstance(failure, CacheError) else failure
                raise CacheUnavailable(f"no map of the cluster: {failure}", incident=incident) from failure
        address = self._map[slot_of(key)] if self._map else None
        if address is None:
            raise CacheUnavailable("no server of the cluster has this slot", incident=self._refresh())
        link = self._link(address)
        if not link.connected:
            # The server may have died and have a successor: read the map again while the link connects.
            self._refresh()
        return link

    def follow(self, link: Link, refusal: Refusal) -> tuple[Link, bool] | None:
        """Follow MOVED and ASK (Redis Cluster specification, redirection).

        Raises:
            CacheUnavailable: There are more servers than `max_connections`.
        """
        kind, _, rest = str(refusal).partition(" ")
        if kind in {"READONLY", "MASTERDOWN"}:
            link.drop(CacheUnavailable(f"Redis is not a master any more: {refusal}", incident=refusal))
            self._refresh()
        if kind not in {"MOVED", "ASK"}:
            return None
        host, _, port = rest.split(" ")[1].rpartition(":")
        if kind == "MOVED":
            self._refresh()
        return self._link(Address(host or self._seed.host, int(port))), kind == "ASK"

    async def everywhere(self) -> list[Link]:
        """Return links to all masters."""
        await self._refresh()
        return [self._link(address) for address in dict.fromkeys(filter(None, self._map))]

    async def close(self) -> None:
        """Close every link. No further link is made."""
        self._closed = True
        if self._refreshing is not None and self._refreshing.get_loop() is asyncio.get_running_loop():
            self._refreshing.cancel()
        for link in list(self._links.values()):
            await link.close()

    def _link(self, address: Address) -> Link:
        link = self._links.get(address)
        if link is None:
            if self._closed:
                raise CacheClosed("the cache was closed, and stays closed", incident=self)
            if len(self._links) >= self._maker.config.max_connections:
                raise CacheUnavailable(f"the cluster has more servers than max_connections = {len(self._links)}")
            link = self._links[address] = self._maker.link(address)
        return link

    def _refresh(self) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        if self._refreshing is None or self._refreshing.done() or self._refreshing.get_loop() is not loop:
            self._refreshing = loop.create_task(self._read_map())
            self._refreshing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._refreshing

    async def _read_map(self) -> None:
        failure: CacheError = CacheUnavailable("the cluster has no servers")
        known = sorted(self._links.items(), key=lambda item: not item[1].connected)
        for address, link in [*known, (self._seed, self._link(self._seed))]:
            try:
                answer = await link.call(_CLUSTER_SLOTS)
            except CacheError as error:
                failure = error
                continue
            if isinstance(answer, Refusal):
                failure = CacheUnavailable(f"{address} tells no map of the cluster: {answer}", incident=answer)
                continue
            slots: list[Address | None] = [None] * _SLOTS
            for first, last, master, *_ in answer:
                slots[first : last + 1] = [Address(master[0] or address.host, int(master[1]))] * (last - first + 1)
            self._map = slots
            for gone in set(self._links) - set(slots) - {self._seed}:
                await self._links.pop(gone).close()
            return
        raise failure
