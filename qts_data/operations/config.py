"""Show the settings: each value, and the source that gave it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from qts_data.bootstrap import shown_url
from qts_data.config_sources import read_sources, unknown_names
from qts_data.errors import ConfigurationError
from qts_data.settings import KNOBS, load_settings

if TYPE_CHECKING:
    from qts_data.config_sources import Knob
    from qts_data.settings import Settings

__all__ = ["Setting", "read_config"]

HIDDEN: Final = "(hidden)"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting in force.

    Attributes:
        variable: Its environment variable.
        value: Its value as text; `(hidden)` for a secret, None without a value.
        source: `environment`, the path of a file, or `default`.
        name: Name of the setting in its source.
        secret: Whether the value is hidden.
    """

    variable: str
    value: str | None
    source: str
    name: str
    secret: bool


def read_config() -> tuple[list[Setting], list[str]]:
    """Read all settings.

    Returns:
        The settings in the order of their declaration, and the QTS_ variables that are not settings.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    settings, found = load_settings(), read_sources(KNOBS)
    listed = []
    for knob in KNOBS:
        given = found.get(knob.variable)
        source, name = ("default", "") if given is None else (given.source, given.name)
        listed.append(Setting(knob.variable, _shown(knob, _value(settings, knob)), source, name, knob.secret))
    return listed, unknown_names(KNOBS)


def _value(settings: Settings, knob: Knob) -> object:
    value: object = settings
    for name in knob.path:
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


def _shown(knob: Knob, value: object) -> str | None:
    if value is None:
        return None
    if knob.secret:
        return _hidden(knob, value)
    if knob.shape == "addresses" and isinstance(value, tuple):
        return ",".join(f"{host}:{port}" for host, port in value)
    if isinstance(value, bool | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _hidden(knob: Knob, value: object) -> str:
    """Return the address of the database, and hide all other secrets."""
    with contextlib.suppress(ConfigurationError):
        if knob.variable == "QTS_DATABASE_URL" and isinstance(value, SecretStr):
            return shown_url(value.get_secret_value())
    return HIDDEN
