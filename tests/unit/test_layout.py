"""Rules of the layout that import-linter cannot see."""

from __future__ import annotations

import ast
import importlib
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tests.fixtures.fix_cli import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = ROOT / "qts_data"
LONGEST_FILE = 400
SQL = re.compile(
    r"\s*(SELECT\s|INSERT INTO|UPDATE \w+ SET|DELETE FROM|WITH \w+ AS|CALL \w"
    r"|CREATE (TABLE|VIEW|INDEX|FUNCTION|ROLE|DATABASE)"
    r"|ALTER (TABLE|ROLE|DATABASE)|DROP (TABLE|VIEW|DATABASE)|TRUNCATE |COPY |SET LOCAL )"
)
MADE_BY_SQLALCHEMY = {"text", "select", "insert", "update", "delete"}
HOLDS_SQL = {"repositories", "models", "database", "timescale", "archive"}
# Module -> why SQL text stands there.
EXCEPTIONS = {"embedded/server.py": "administers its own server, before it has any database of ours"}
# File -> why it is longer. A file that is split leaves the list, and no file joins it.
LONGER: dict[str, str] = {
    "timescale/declarations.py": "one dataclass for each feature",
    "timescale/ddl.py": "the text of each feature",
    "timescale/operations/aggregates.py": "the operations of aggregates",
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> set[int]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr):
                found.add(id(first.value))
    return found


def is_sql(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and SQL.match(node.value) is not None
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "sa"
        and node.attr in MADE_BY_SQLALCHEMY
    )


def test_sql_stands_in_the_layers_that_own_it() -> None:
    found: dict[str, list[int]] = {}
    for name, tree in modules():
        if name.split("/")[0] in HOLDS_SQL:
            continue
        skipped = docstrings(tree)
        for node in ast.walk(tree):
            if id(node) not in skipped and is_sql(node):
                found.setdefault(name, []).append(getattr(node, "lineno", 0))
    assert set(found) == set(EXCEPTIONS), found


def test_sql_is_known_however_it_is_written() -> None:
    """The rule above recognises SQL, so it does not pass for want of matches."""
    for source in ("a = 'SELECT 1'", "b = f'UPDATE x SET {y}'", "sa.update(t)", "sa.text(q)", "c = '\\n WITH a AS ('"):
        assert any(is_sql(node) for node in ast.walk(ast.parse(source))), source
    assert not any(is_sql(node) for node in ast.walk(ast.parse("pack('SELECT', db)")))


def test_revisions_import_nothing_from_the_package() -> None:
    """A revision must not change when the package changes."""
    for path in revisions():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [name for name in names if name.split(".")[0] == "qts_data"], path.name


def revisions() -> list[Path]:
    return sorted((ROOT / "alembic" / "versions").glob("*.py"))


def test_files_of_the_package_are_short() -> None:
    lines = {
        str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: count for name, count in lines.items() if count > LONGEST_FILE}.keys() == LONGER.keys()


def test_scripts_import_names_that_are_there() -> None:
    """Names of a moved module must be found in the scripts, of which the suite runs few."""
    for path in sorted((ROOT / "scripts").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qts_data"):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    where = f"{path.name}: {node.module}.{alias.name}"
                    assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}"), where
