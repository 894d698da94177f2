"""Read the state of the configured database: edition, revision, features, roles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qts_data.bootstrap import connect, database_url
from qts_data.database import migrations, roles
from qts_data.database.trading_zone import find_trading_zone
from qts_data.models import Base
from qts_data.timescale import Server, probe
from qts_data.timescale.status import FeatureState, feature_states

if TYPE_CHECKING:
    from qts_data.settings import Settings


__all__ = ["Status", "read_status"]


@dataclass(frozen=True, slots=True)
class Status:
    """Contents of `qts-data status`.

    Attributes:
        url: The database, without its password.
        server: Edition and versions.
        revision: The database's revision and the code's.
        trading_zone: Time zone of the database's views; None before they exist.
        features: Each declared TimescaleDB feature and its state; empty before the schema exists.
        missing_roles: Roles of ours that the server lacks.
    """

    url: str
    server: Server
    revision: migrations.Revision
    trading_zone: str | None
    features: tuple[FeatureState, ...]
    missing_roles: tuple[str, ...]


def read_status(settings: Settings) -> Status:
    """Read the state of the configured database.

    Raises:
        QtsDataError: One sentence with the fault and the remedy.
    """
    with connect(settings) as connection:
        revision = migrations.revision_of(connection)
        existing = roles.existing_roles(connection)
        return Status(
            url=str(database_url(settings).render_as_string(hide_password=True)),
            server=probe(connection),
            revision=revision,
            trading_zone=find_trading_zone(connection),
            features=tuple(feature_states(connection, Base.metadata)) if revision.database else (),
            missing_roles=tuple(role for role in roles.ROLES if role not in existing),
        )
