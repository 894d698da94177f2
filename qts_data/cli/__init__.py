"""The command line: parse, call, print. `qts-data --help` lists the commands."""

from __future__ import annotations

import sqlalchemy as sa

from qts_data.cli.app import app
from qts_data.database.errors import translate
from qts_data.errors import ConfigurationError, QtsDataError
from qts_data.extras import extra_of
from qts_data.terminal.console import fail, prepare_streams

__all__ = ["main"]


def main() -> None:
    """Run the command line. An error of ours becomes one sentence on stderr and exit code 1, without traceback."""
    prepare_streams()
    try:
        app(prog_name="qts-data")
    except QtsDataError as error:
        fail(error)
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if extra is None:
            raise
        fail(ConfigurationError(f"this needs {error.name}, which is not installed: pip install 'qts-data[{extra}]'"))
    except sa.exc.SQLAlchemyError as error:
        ours = translate(error)
        if ours is None:
            raise
        fail(ours)
