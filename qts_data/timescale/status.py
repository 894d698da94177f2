"""Which declarations are at work in a database, which are not, and why."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from qts_data.timescale.declarations import declarations_of
from qts_data.timescale.edition import Edition, Feature, probe
from qts_data.timescale.watermark import find_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

    from qts_data.timescale.declarations import Columnstore, ContinuousAggregate, Hypertable

__all__ = ["FeatureState", "State", "feature_states"]


class State(enum.StrEnum):
    """The state of a declared feature."""

    ACTIVE = "active"
    DEGRADED = "degraded"
    """The edition lacks the feature. The reason names its replacement."""
    MISSING = "missing"
    """The edition has it, the database does not."""
    AHEAD = "ahead"
    """Buckets that are not over are materialized, and hide the rows that follow in them."""


@dataclass(frozen=True, slots=True)
class FeatureState:
    """One declared feature of one object.

    Attributes:
        name: The table or view.
        feature: The declared feature, with its figures.
        state: Its state.
        reason: Why it is not active; empty if it is.
    """

    name: str
    feature: str
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Catalog:
    """The server's objects in the current schema."""

    hypertables: frozenset[str]
    columnstores: frozenset[str]
    aggregates: frozenset[str]
    jobs: dict[tuple[str, str], int]
    ahead: dict[str, str]

    @classmethod
    def read(cls, connection: Connection, edition: Edition) -> _Catalog:
        if edition is Edition.POSTGRESQL:
            return cls(frozenset(), frozenset(), frozenset(), {}, {})
        tables = connection.execute(
            sa.text(
                "SELECT hypertable_name AS name, compression_enabled AS columnstore "
                "FROM timescaledb_information.hypertables WHERE hypertable_schema = current_schema()"
            )
        ).all()
        aggregates = connection.execute(
            sa.text(
                "SELECT view_name AS name, compression_enabled AS columnstore "
                "FROM timescaledb_information.continuous_aggregates WHERE view_schema = current_schema()"
            )
        ).all()
        jobs = connection.execute(
            sa.text(
                "SELECT proc_name, hypertable_name, count(*) FILTER (WHERE scheduled) AS scheduled "
                "FROM timescaledb_information.jobs WHERE hypertable_schema = current_schema() GROUP BY 1, 2"
            )
        )
        return cls(
            frozenset(row.name for row in tables),
            frozenset(row.name for row in (*tables, *aggregates) if row.columnstore),
            frozenset(row.name for row in aggregates),
            {(row.proc_name, row.hypertable_name): row.scheduled for row in jobs},
            find_ahead(connection) if aggregates else {},
        )


def feature_states(connection: Connection, metadata: sa.MetaData) -> list[FeatureState]:
    """Compare each declared feature with the live catalog of the connection's current schema."""
    edition = probe(connection).edition
    catalog = _Catalog.read(connection, edition)
    declared = declarations_of(metadata)
    states = [state for item in declared.hypertables.values() for state in _of_table(item, catalog, edition)]
    for aggregate in declared.continuous_aggregates.values():
        states += _of_aggregate(aggregate, catalog, edition)
    return states


def _judge(edition: Edition, feature: Feature, *, present: bool, instead: str) -> tuple[State, str]:
    if not edition.has(feature):
        return State.DEGRADED, instead
    if present:
        return State.ACTIVE, ""
    return State.MISSING, "the server supports it: migrated before its edition changed, or removed by hand"


def _of_table(item: Hypertable, catalog: _Catalog, edition: Edition) -> Iterator[FeatureState]:
    def row(feature: Feature, text: str, *, present: bool, instead: str) -> FeatureState:
        return FeatureState(item.name, text, *_judge(edition, feature, present=present, instead=instead))

    yield row(
        Feature.HYPERTABLES,
        f"hypertable, chunks of {item.chunk_interval}",
        present=item.name in catalog.hypertables,
        instead="an ordinary table",
    )
    if item.columnstore is not None:
        yield _columnstore(item.name, item.columnstore, catalog, edition)
    if item.retention is not None:
        yield _retention(item.name, str(item.retention), catalog, edition)


def _of_aggregate(item: ContinuousAggregate, catalog: _Catalog, edition: Edition) -> Iterator[FeatureState]:
    state, reason = _judge(
        edition,
        Feature.CONTINUOUS_AGGREGATES,
        present=item.name in catalog.aggregates,
        instead="a plain view, computed at each query",
    )
    if item.name in catalog.ahead:
        state, reason = State.AHEAD, f"materialized up to {catalog.ahead[item.name]} UTC: later rows are hidden"
    yield FeatureState(item.name, f"continuous aggregate, buckets of {item.bucket}", state, reason)
    # A plain view is always current. It needs no refresh, and has no rows to drop.
    if not edition.has(Feature.CONTINUOUS_AGGREGATES):
        return
    if item.refresh:
        wanted = len(item.refresh)
        state, reason = _judge(
            edition,
            Feature.POLICIES,
            present=catalog.jobs.get(("policy_refresh_continuous_aggregate", item.name), 0) == wanted,
            instead="no scheduler: never refreshed",
        )
        windows = ", ".join(f"{p.start} to {p.end} ago every {p.every}" for p in item.refresh)
        yield FeatureState(item.name, f"refresh {windows}", state, reason)
    if item.columnstore is not None:
        yield _columnstore(item.name, item.columnstore, catalog, edition)
    if item.retention is not None:
        yield _retention(item.name, str(item.retention), catalog, edition)


def _columnstore(name: str, wanted: Columnstore, catalog: _Catalog, edition: Edition) -> FeatureState:
    state, reason = _judge(
        edition,
        Feature.COLUMNSTORE,
        present=name in catalog.columnstores
        and (wanted.after is None or catalog.jobs.get(("policy_compression", name), 0) == 1),
        instead="rows stay rows",
    )
    return FeatureState(name, "columnstore" + (f" after {wanted.after}" if wanted.after else ""), state, reason)


def _retention(name: str, age: str, catalog: _Catalog, edition: Edition) -> FeatureState:
    state, reason = _judge(
        edition,
        Feature.POLICIES,
        present=catalog.jobs.get(("policy_retention", name), 0) == 1,
        instead="no scheduler: rows stay until they are deleted by hand",
    )
    return FeatureState(name, f"retention {age}", state, reason)
