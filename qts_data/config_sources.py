"""Sources of settings: the environment, `.env` and `qts-data.toml`, with one table of names."""

from __future__ import annotations

import dataclasses
import difflib
import io
import json
import os
import tomllib
import typing
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dotenv.main import resolve_variables
from dotenv.parser import parse_stream
from pydantic import SecretStr

from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import BaseModel

__all__ = ["CONFIG_FILE", "ENV_FILE", "PREFIX", "Found", "Knob", "knobs_of", "nested", "read_sources", "unknown_names"]

PREFIX: Final = "QTS_"
CONFIG_FILE: Final = "QTS_CONFIG_FILE"
"""Variable that names another file than `qts-data.toml`."""
ENV_FILE: Final = "QTS_ENV_FILE"
"""Variable that names another file than `.env`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Knob:
    """One setting.

    Attributes:
        variable: Its environment variable.
        path: Its place in the settings, such as ("database", "pool_min").
        default: The value without any source.
        secret: Whether its value is hidden.
        shape: `json` for tables, `addresses` for lists of host and port, else `text`.
        aliases: Older names of the variable.
    """

    variable: str
    path: tuple[str, ...]
    default: object
    secret: bool
    shape: str
    aliases: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its usual key in `qts-data.toml`, such as `database.pool_min`."""
        name = self.variable.removeprefix(PREFIX).lower()
        section = self.path[0] if len(self.path) > 1 else ""
        return f"{section}.{name.removeprefix(f'{section}_')}" if section else name


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A value from a source.

    Attributes:
        value: As the source gives it, or read from its text.
        source: `environment`, or the path of the file.
        name: The name that the source uses.
    """

    value: object
    source: str
    name: str


def knobs_of(model: type[BaseModel], aliases: Mapping[str, str]) -> tuple[Knob, ...]:
    """List the settings of a model. Each field of a nested dataclass is a setting.

    Args:
        model: The model. Its fields that are dataclasses are sections. Their fields that map an enumeration are one
            setting for each member, such as `QTS_REDIS_PRICE_TTL_MS`.
        aliases: The current variable of each older variable.
    """
    found: list[Knob] = []
    for name, field in model.model_fields.items():
        if dataclasses.is_dataclass(field.annotation):
            found += _section(name, field.annotation)
        else:
            default = field.get_default(call_default_factory=True)
            found.append(_knob(name, (name,), default, field.annotation, secret=_is_secret(field.annotation)))
    older: dict[str, tuple[str, ...]] = {}
    for alias, variable in aliases.items():
        older[variable] = (*older.get(variable, ()), alias)
    return tuple(dataclasses.replace(knob, aliases=older.get(knob.variable, ())) for knob in found)


def _section(section: str, kind: Any) -> Iterator[Knob]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, secret = hints[field.name], not field.repr
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        members = _members(hint)
        if members is None:
            yield _knob(f"{section}_{field.name}", (section, field.name), default, hint, secret=secret)
        else:
            values = typing.cast("Mapping[StrEnum, object]", default)
            for member in members:
                name, path = f"{section}_{member.name}_{field.name}", (section, field.name, member.value)
                yield _knob(name, path, values[member], int, secret=secret)


def _members(hint: object) -> type[StrEnum] | None:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is not Mapping or not isinstance(arguments[0], type):
        return None
    return arguments[0] if issubclass(arguments[0], StrEnum) else None


def _knob(name: str, path: tuple[str, ...], default: object, hint: object, *, secret: bool) -> Knob:
    origin = typing.get_origin(hint)
    shape = "json" if origin is dict else "addresses" if origin is tuple else "text"
    return Knob(PREFIX + name.upper(), path, default, secret, shape)


def _is_secret(hint: object) -> bool:
    return hint is SecretStr or SecretStr in typing.get_args(hint)


def read_sources(knobs: Iterable[Knob], folder: Path | None = None) -> dict[str, Found]:
    """Read all sources. The environment wins over `.env`, and `.env` over `qts-data.toml`.

    An empty variable counts as not given.

    Args:
        knobs: The settings.
        folder: Folder of the files; the working folder by default.

    Returns:
        The given values, by variable.

    Raises:
        ConfigurationError: A file cannot be read or holds an unknown key, or a text does not have its setting's shape.
    """
    knobs, folder = tuple(knobs), folder or Path()
    environment = {name.upper(): value for name, value in os.environ.items() if name.upper().startswith(PREFIX)}
    path = _file(environment.get(ENV_FILE), folder / ".env", ENV_FILE)
    dotted = {} if path is None else _dotenv(path)
    config_file = environment.get(CONFIG_FILE) or dotted.get(CONFIG_FILE)
    toml = _file(config_file, folder / "qts-data.toml", CONFIG_FILE)
    found = {} if toml is None else _toml(toml, knobs)
    if path is not None:
        found |= _variables(dotted, knobs, str(path))
    return found | _variables(environment, knobs, "environment")


def unknown_names(knobs: Iterable[Knob], folder: Path | None = None) -> list[str]:
    """List variables of the environment and `.env` that begin with QTS_ and are not settings."""
    known = {name for knob in knobs for name in (knob.variable, *knob.aliases)} | {CONFIG_FILE, ENV_FILE}
    given = set(os.environ)
    path = _file(os.environ.get(ENV_FILE), (folder or Path()) / ".env", ENV_FILE)
    if path is not None:
        given |= set(_dotenv(path))
    return sorted(name for name in given if name.startswith(PREFIX) and name not in known)


def nested(knobs: Iterable[Knob], found: Mapping[str, Found]) -> dict[str, Any]:
    """Nest the values as the settings are nested."""
    made: dict[str, Any] = {}
    for knob in knobs:
        if knob.variable in found:
            place = made
            for name in knob.path[:-1]:
                place = place.setdefault(name, {})
            place[knob.path[-1]] = found[knob.variable].value
    return made


def _file(given: str | None, usual: Path, variable: str) -> Path | None:
    if given:
        path = Path(given).expanduser()
        if not path.exists():
            raise ConfigurationError(f"{variable} names {path}, which does not exist")
        return path
    return usual if usual.is_file() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8: byte {error.start} cannot be read") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _dotenv(path: Path) -> dict[str, str]:
    values = []
    for binding in parse_stream(io.StringIO(_text(path))):
        if binding.error:
            # The line may hold a password.
            raise ConfigurationError(f"{path}, line {binding.original.line}: is not of the form NAME=VALUE")
        if binding.key is not None:
            values.append((binding.key.upper(), binding.value))
    return {name: value for name, value in resolve_variables(values, override=True).items() if value}


def _toml(path: Path, knobs: tuple[Knob, ...]) -> dict[str, Found]:
    try:
        given = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    by_name = {name.removeprefix(PREFIX).lower(): knob for knob in knobs for name in (knob.variable, *knob.aliases)}
    found: dict[str, Found] = {}
    for keys, value in _leaves(given, by_name, ()):
        key, knob = ".".join(keys), by_name.get("_".join(keys))
        if knob is None:
            near = difflib.get_close_matches(key, [knob.key for knob in knobs], 1)
            raise ConfigurationError(f"{path}: unknown key {key}" + (f"; did you mean {near[0]}?" if near else ""))
        if knob.variable in found:
            raise ConfigurationError(f"{path}: {found[knob.variable].name} and {key} are one setting")
        found[knob.variable] = Found(_from_toml(knob, value, f"{path}: {key}"), str(path), key)
    return found


def _leaves(
    table: Mapping[str, Any], known: Mapping[str, Knob], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in table.items():
        keys = (*above, name)
        if isinstance(value, dict) and "_".join(keys) not in known:
            yield from _leaves(value, known, keys)
        else:
            yield keys, value


def _from_toml(knob: Knob, value: Any, where: str) -> object:
    if knob.shape != "addresses":
        return value
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigurationError(f"{where}: must be a list of texts such as host:port")
    return _addresses(",".join(texts), where)


def _variables(given: Mapping[str, str], knobs: tuple[Knob, ...], source: str) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for knob in knobs:
        names = [name for name in (knob.variable, *knob.aliases) if given.get(name)]
        if len({given[name] for name in names}) > 1:
            raise ConfigurationError(f"{' and '.join(names)} are one setting and differ")
        if names:
            found[knob.variable] = Found(_from_text(knob, given[names[0]], names[0]), source, names[0])
    return found


def _from_text(knob: Knob, text: str, name: str) -> object:
    if knob.shape == "addresses":
        return _addresses(text, name)
    if knob.shape == "json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigurationError(f'{name}: is not JSON such as {{"a": "b"}}: {error}') from error
    return text


def _addresses(text: str, where: str) -> tuple[tuple[str, int], ...]:
    found = []
    for address in text.split(",") if text else ():
        host, _, port = address.strip().rpartition(":")
        if not host or not (port.isascii() and port.isdecimal()):
            raise ConfigurationError(f"{where}: {address!r} is not host:port; separate addresses by commas")
        found.append((host, int(port)))
    return tuple(found)
