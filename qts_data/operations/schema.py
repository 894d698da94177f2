"""Compare the live schema with the code, adopt features, prepare roles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qts_data.bootstrap import connect, database_url, secret
from qts_data.database import migrations, roles
from qts_data.database.trading_zone import find_trading_zone
from qts_data.models import PRIVILEGE_STATEMENTS, VIEWS, Base
from qts_data.models.views import trading_zone_statements
from qts_data.timescale import Server, declarations_of, probe
from qts_data.timescale.ddl import render_select, verbatim
from qts_data.timescale.drift import Difference, find_drift, view_drift
from qts_data.timescale.status import FeatureState, State, feature_states

if TYPE_CHECKING:
    from qts_data.settings import Settings


__all__ = ["CheckReport", "adopt", "check", "prepare_roles", "set_trading_zone"]


def adopt(settings: Settings, *, allow_data_loss: bool) -> list[tuple[str, str]]:
    """Give the configured database the features that its server offers and it lacks.

    Returns:
        Each completed step, and its object.

    Raises:
        QtsDataError: One sentence with the fault and the remedy.
    """
    return migrations.adopt(
        database_url(settings),
        Base.metadata,
        allow_data_loss=allow_data_loss,
        config=settings.database,
        wait_seconds=settings.migration_wait_seconds,
        lock_timeout_seconds=settings.migration_lock_timeout_seconds,
    )


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Result of `qts-data db check`.

    Attributes:
        server: Edition and versions.
        revision: The database's revision and the code's.
        differences: Differences between the database and the declarations.
        not_enforced: Declared features that this edition lacks.
    """

    server: Server
    revision: migrations.Revision
    differences: tuple[Difference, ...]
    not_enforced: tuple[FeatureState, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return self.revision.current and not self.differences


def check(settings: Settings) -> CheckReport:
    """Compare the live catalog with the models, the views and the TimescaleDB declarations.

    Raises:
        QtsDataError: The comparison failed: no server answers, or a right is missing.
    """
    with connect(settings) as connection:
        revision = migrations.revision_of(connection)
        differences: list[Difference] = []
        if revision.database is not None:
            differences += migrations.table_drift(connection, Base.metadata)
            differences += find_drift(connection, Base.metadata)
            if find_trading_zone(connection) is not None:
                for view in VIEWS:
                    select = render_select(view.select, has_time_bucket=False)
                    differences += view_drift(connection, view.name, select)
        degraded = [state for state in feature_states(connection, Base.metadata) if state.state is State.DEGRADED]
        return CheckReport(probe(connection), revision, tuple(differences), tuple(degraded))


def prepare_roles(settings: Settings) -> None:
    """Create the roles and their rights in the configured database. Harmless to repeat."""
    with connect(settings) as connection:
        roles.prepare_roles(
            connection,
            relations=[
                *Base.metadata.tables,
                *declarations_of(Base.metadata).continuous_aggregates,
                *(view.name for view in VIEWS),
                "alembic_version",
            ],
            functions=["t_ledger_refuse_change", "t_ledger_feed_outbox", "qts_trading_zone", "config_history_record"],
            privileges=PRIVILEGE_STATEMENTS,
            passwords={
                migrations.OWNER_ROLE: secret(settings.owner_password),
                roles.ENGINE_ROLE: secret(settings.engine_password),
                roles.READONLY_ROLE: secret(settings.readonly_password),
            },
        )


def set_trading_zone(settings: Settings) -> None:
    """Set the trading time zone of the database's views to the configured one."""
    with connect(settings) as connection:
        for statement in trading_zone_statements(settings.trading_time_zone, replace=True):
            connection.execute(verbatim(statement))
