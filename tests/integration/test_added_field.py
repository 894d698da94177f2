"""One more field of a fill: declared once, and everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from qts_data.database.engine import engine
from tests.fixtures.added_field import STATEMENTS, copy_with_field, run_copy

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import URL


def test_a_declared_field_travels_everywhere(database_url: URL, tmp_path: Path) -> None:
    """The copy has the field in the record and the models only, and in no statement, layout or list.

    The field still arrives in the ledger: alone, by COPY, in a group, by the remembered position. It also arrives in a
    report that waits, in a sheet's row and in a CSV file. The comparison, the rule of redelivery and the codec use it.
    """
    copy_with_field(tmp_path)
    with engine(database_url).begin() as connection:
        for statement in STATEMENTS:
            connection.execute(sa.text(statement))
    assert run_copy(tmp_path, "added_field", database_url) == str(tmp_path)
