"""Who is fed from the outbox, and how that stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qts_data.repositories.moving.outbox import Outbox

if TYPE_CHECKING:
    import datetime as dt

    from qts_data.repositories import Database, OutboxStatus

__all__ = ["Feed"]


class Feed:
    """One destination of the outbox, each call in a transaction of its own.

    Args:
        database: The database that feeds.
        destination: Name of the data source.
    """

    def __init__(self, database: Database, destination: str = "sheets") -> None:
        self._database = database
        self.destination = destination

    async def enable(self, *, until: dt.datetime | None = None) -> None:
        """Put every new fill into the outbox from now on."""
        async with self._database.transaction() as uow:
            await uow.outbox(self.destination).enable(until=until)

    async def disable(self) -> None:
        """Put nothing more into it; what waits stays."""
        async with self._database.transaction() as uow:
            await uow.outbox(self.destination).disable()

    async def revive(self) -> int:
        """Try what is dead or was refused once more, now; returns how many."""
        async with self._database.transaction() as uow:
            return await uow.outbox(self.destination).revive()

    async def is_enabled(self) -> bool:
        """Whether new fills are put into the outbox for it."""
        async with self._database.reader() as reader:
            return await Outbox(reader.connection, self.destination).is_enabled()

    async def status(self) -> OutboxStatus:
        """How the destination stands."""
        async with self._database.reader() as reader:
            return await Outbox(reader.connection, self.destination).status()
