"""Write docs/settings.md from the declarations of the settings."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qts_data.contracts.cache import CacheConfig
from qts_data.database.engine import DatabaseConfig
from qts_data.settings import KNOBS, Settings

if TYPE_CHECKING:
    from qts_data.config_sources import Knob

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
BEGIN: Final = "<!-- settings: python -m scripts.settings_page -->"
END: Final = "<!-- end of settings -->"
_SECTIONS: Final = {"database": DatabaseConfig, "redis": CacheConfig}


def table() -> str:
    """Make the table: variable, key in TOML, meaning, default.

    Raises:
        KeyError: A setting has no line under "Attributes:" in the docstring of its class.
    """
    meanings = {name: attributes(kind) for name, kind in ({"": Settings} | _SECTIONS).items()}
    lines = ["| variable | key in `qts-data.toml` | meaning | default |", "|---|---|---|---|"]
    for knob in KNOBS:
        section, field = (knob.path[0], knob.path[1]) if len(knob.path) > 1 else ("", knob.path[0])
        meaning = meanings[section][field]
        if len(knob.path) > 2:
            meaning = f"Milliseconds for which a value of this type may be served: {knob.variable.split('_')[2]}."
        if knob.aliases:
            meaning += f" Also `{'`, `'.join(knob.aliases)}`."
        lines.append(f"| `{knob.variable}` | `{knob.key}` | {meaning} | {default(knob)} |")
    return "\n".join(lines)


def attributes(kind: type) -> dict[str, str]:
    """Read the section "Attributes:" of a docstring."""
    text = re.split(r"^Attributes:\n", inspect.getdoc(kind) or "", flags=re.MULTILINE)[1]
    text = re.split(r"^\S", text, flags=re.MULTILINE)[0]
    found = {}
    for name, meaning in re.findall(r"^    (\w+): (.*(?:\n     .*)*)", text, re.MULTILINE):
        words = re.sub(r"\s+", " ", meaning)
        words = re.sub(r"^`QTS_\w+`[,;:]? ?", "", words).replace("|", "\\|")
        found[name] = words[:1].upper() + words[1:]
    return found


def default(knob: Knob) -> str:
    """Write a default as a user would give it."""
    if knob.default is None or knob.default in ("", (), {}):
        return "none"
    return f"`{str(knob.default).lower() if isinstance(knob.default, bool) else knob.default}`"


def page(text: str) -> str:
    """Put the table into the text of the page."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
