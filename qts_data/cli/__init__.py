"""The command line: parse, call, print. `qts-data --help` lists the commands."""

from __future__ import annotations

import sqlalchemy as sa

from qts_data.cli.app import app
from qts_data.database.errors import translate
from qts_data.errors import QtsDataError
from qts_data.terminal.console import fail

__all__ = ["main"]


def main() -> None:
    """Run; an error of ours is one sentence on stderr and exit code 1, never a traceback."""
    try:
        app()
    except QtsDataError as error:
        fail(error)
    except sa.exc.SQLAlchemyError as error:
        ours = translate(error)
        if ours is None:
            raise
        fail(ours)
