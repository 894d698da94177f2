"""`qts-data config`: each setting and its source."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from qts_data.operations.config import read_config
from qts_data.terminal.config import print_config
from qts_data.terminal.console import print_json

__all__ = ["config"]


def config(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Print each setting with its value and its source: environment, .env, qts-data.toml or default.

    Secrets are hidden. QTS_CONFIG_FILE and QTS_ENV_FILE name other files than those of the working folder.
    """
    settings, unknown = read_config()
    if as_json:
        print_json({"settings": [dataclasses.asdict(setting) for setting in settings], "unknown": unknown})
    else:
        print_config(settings, unknown)
