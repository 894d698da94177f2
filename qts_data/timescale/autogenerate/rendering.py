"""Rendering of operations in a migration: a comment with the cost, and the call."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from alembic.autogenerate import renderers
from alembic.autogenerate.render import render_op

from qts_data.timescale.operations import Group, TimescaleOp

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext

__all__: list[str] = []

_DEFINITIONS: Final = ("select", "fallback_select")

_QUOTED: Final = re.compile(r"""'[^']*'|"[^"]*\"""")
"""A literal or a quoted name. A text with a doubled quote matches as two of them, one after the other."""


@renderers.dispatch_for(Group)
def _render_group(context: AutogenContext, group: Group) -> list[str]:
    return [line for op in group.ops for line in render_op(context, op)]


@renderers.dispatch_for(TimescaleOp)
def _render(context: AutogenContext, op: TimescaleOp) -> list[str]:
    """Render a comment with the cost, and the call."""
    prefix = context.opts["alembic_module_prefix"] or ""
    arguments = [repr(op.name)]
    arguments += [f"{key}={_python(key, value)}" for key, value in op.arguments().items()]
    if op.schema is not None:
        arguments.append(f"schema={op.schema!r}")
    lines = [f"# {line}" for line in (op.safety + (f": {op.reason}" if op.reason else "")).splitlines()]
    if len(", ".join(arguments)) < 80 and not any("\n" in argument for argument in arguments):
        return [*lines, f"{prefix}{op.function}({', '.join(arguments)})"]
    body = "".join(f"    {argument},\n" for argument in arguments)
    return [*lines, f"{prefix}{op.function}(\n{body})"]


def _python(key: str, value: object) -> str:
    # No other text may change, not even in its blanks. A comment can begin like a definition.
    wide = key in _DEFINITIONS and isinstance(value, str) and value.startswith("SELECT ")
    if wide and isinstance(value, str) and _fits_several_lines(value):
        return f'"""\n{_one_column_a_line(value)}\n"""'
    return repr(value)


def _fits_several_lines(select: str) -> bool:
    # Alembic indents all lines, even inside quotes. So a text with a line break in a literal stays on one line.
    broken = any("\n" in quoted[0] for quoted in _QUOTED.finditer(select))
    return not broken and '"""' not in select and "\\" not in select


def _one_column_a_line(select: str) -> str:
    """Write a SELECT with a line for each column, so that a review shows changed columns. Quoted text is unchanged."""
    text, depth, quote = "", 0, ""
    for character in select:
        if quote:
            quote = "" if character == quote else quote
            text += character
            continue
        if character.isspace():
            text += "" if text.endswith((" ", "\n")) else " "
        else:
            text += character
        if character in "'\"":
            quote = character
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            text += "\n    "
        for word in (" FROM ", " GROUP BY ", " WHERE ", " HAVING "):
            if not depth and text.endswith(word):
                text = f"{text[: -len(word)]}\n{word.strip()} "
    return text
