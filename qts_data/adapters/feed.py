"""The outbox of one destination, as an application uses it: switch it on and off, retry messages, read its status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qts_data.repositories.moving.outbox import Outbox

if TYPE_CHECKING:
    import datetime as dt

    from qts_data.repositories import Database, OutboxStatus

__all__ = ["Feed"]


class Feed:
    """One destination of the outbox. Each call runs in its own transaction.

    Args:
        database: The database that writes the outbox.
        destination: Name of the data source that receives the messages.
    """

    def __init__(self, database: Database, destination: str = "sheets") -> None:
        self._database = database
        self.destination = destination

    async def enable(self, *, until: dt.datetime | None = None) -> None:
        """Put every new fill into the outbox from now on."""
        async with self._database.transaction() as uow:
            await uow.outbox(self.destination).enable(until=until)

    async def disable(self) -> None:
        """Stop putting new fills into the outbox. Pending messages stay."""
        async with self._database.transaction() as uow:
            await uow.outbox(self.destination).disable()

    async def revive(self) -> int:
        """Retry dead and refused messages now. Return their number."""
        async with self._database.transaction() as uow:
            return await uow.outbox(self.destination).revive()

    async def is_enabled(self) -> bool:
        """Return whether new fills are put into the outbox for this destination."""
        async with self._database.reader() as reader:
            return await Outbox(reader.connection, self.destination).is_enabled()

    async def status(self) -> OutboxStatus:
        """Return pending and dead messages and the lag of this destination."""
        async with self._database.reader() as reader:
            return await Outbox(reader.connection, self.destination).status()
