"""Output of edition, revision, features and differences of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qts_data.terminal.console import console, notes
from qts_data.terminal.table import Table
from qts_data.timescale.edition import SAFE_TIMESCALEDB, Edition
from qts_data.timescale.status import State

if TYPE_CHECKING:
    from qts_data.operations import schema
    from qts_data.operations.status import Status


__all__ = ["print_check", "print_status"]


_STYLES = {State.ACTIVE: "green", State.DEGRADED: "dim", State.MISSING: "red", State.AHEAD: "red"}
_EDITIONS = {Edition.POSTGRESQL: "plain PostgreSQL", Edition.APACHE: "TimescaleDB Apache"}


def print_status(found: Status, configured_zone: str, *, every: bool = False) -> None:
    """Print facts first, then each feature, then advice.

    Args:
        found: The database.
        configured_zone: Trading zone of the settings.
        every: Also list features that the edition does not have; otherwise one line counts them.
    """
    server = found.server
    console.print(f"database  {found.url}", soft_wrap=True)
    console.print(
        f"edition   {server.edition} (PostgreSQL {server.postgres}, TimescaleDB {server.timescaledb_text})",
        soft_wrap=True,
    )
    console.print(f"revision  database {found.revision.database or 'empty'}, code {found.revision.code}")
    console.print(f"zone      {found.trading_zone or '-'}")
    shown = [one for one in found.features if every or one.state is not State.DEGRADED]
    table = Table(("object", "feature", "state", "why"))
    for feature in shown:
        table.add((feature.name, feature.feature, feature.state, feature.reason), style=_STYLES[feature.state])
    table.print()
    if left_out := len(found.features) - len(shown):
        edition = _EDITIONS.get(server.edition, str(server.edition))
        features = "1 feature is" if left_out == 1 else f"{left_out} features are"
        console.print(f"{edition}: {features} replaced or left out, see qts-data status --all", soft_wrap=True)
    for note in _advice(found, configured_zone):
        notes.print(f"note: {note}", soft_wrap=True)


def print_check(report: schema.CheckReport) -> None:
    """Print differences first, then a note for each feature that the edition does not enforce."""
    if not report.revision.current:
        console.print(f"revision: database {report.revision.database or 'empty'}, code {report.revision.code}")
    if report.differences:
        table = Table(("object", "what", "declared", "found"))
        for item in report.differences:
            table.add((item.name, item.what, item.declared, item.found))
        table.print()
    if report.clean:
        console.print(f"as declared, on the {report.server.edition} edition")
    for state in report.not_enforced:
        notes.print(f"note: {state.name}: {state.feature} is not enforced here: {state.reason}", soft_wrap=True)


def _advice(found: Status, configured_zone: str) -> list[str]:
    advice = []
    if not found.revision.known:
        advice.append("a newer version has migrated this database; deploy that version")
    elif not found.revision.current:
        advice.append("the schema is behind the code; run qts-data db upgrade")
    if found.trading_zone not in {None, configured_zone}:
        advice.append(
            f"QTS_TRADING_TIME_ZONE is {configured_zone}, the database's views use {found.trading_zone}; run "
            "qts-data db trading-zone"
        )
    if found.server.edition is Edition.POSTGRESQL and found.server.available:
        advice.append(
            f"TimescaleDB {found.server.available} is on the server, but not installed in this database; qts-data db "
            "adopt does it, and locks tables while their rows move"
        )
    if any(feature.state is State.MISSING for feature in found.features):
        advice.append("the server supports the missing features; run qts-data db adopt")
    if any(feature.state is State.AHEAD for feature in found.features):
        advice.append("bars ahead of the server's clock are materialized; run qts-data db adopt to set them back")
    if found.server.timescaledb is not None and found.server.timescaledb < SAFE_TIMESCALEDB:
        safe = ".".join(map(str, SAFE_TIMESCALEDB))
        advice.append(f"TimescaleDB {found.server.timescaledb_text} lacks security fixes of {safe}")
    if found.missing_roles:
        advice.append(f"roles {', '.join(found.missing_roles)} do not exist; run qts-data db roles")
    return advice
