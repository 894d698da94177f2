"""The language of the house, counted: hard patterns, names of tests, summaries and long sentences."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.fix_cli import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDERS = ("qts_data", "tests", "scripts", "docs", "alembic", "deploy", "examples")
TEXT = {".py", ".md", ".mako", ".sh", ".sql", ".txt"}
AT_TOP = ("*.md", "*.yml", "*.toml", "Makefile", ".env.example")

PATTERNS = (
    r"\b(what|who) (is|was|are|were|has|had|comes|came)\b",
    r"\b(nobody|somebody|whoever)\b",
    r"\bis no\b",
    r"\b(told|says so|hears of|heard of)\b",
)
"""Clauses without an actor. Each costs a reader a second look."""

# File -> number of matches. A file that is not listed has none.
# Revisions quote the comments of the database that they write or, on the way down, write back.
ALLOWED: dict[str, int] = {
    "alembic/versions/0002_book_tables.py": 2,
    "alembic/versions/0010_market_data_bookkeeping.py": 1,
    "alembic/versions/0011_outbox_and_moves.py": 3,
    "alembic/versions/0016_plain_comments.py": 6,
}

LONGEST_TEST_NAME = 60
LONGEST_SENTENCE = 25

# Top-level folder -> (sentences of docstrings above the limit, summaries with a semicolon). A number may only fall.
CEILINGS = {"qts_data": (35, 0), "tests": (0, 0), "scripts": (5, 0), "alembic": (1, 0)}

SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
THIS = "tests/unit/test_english.py"
SECTION = re.compile(r"(Args|Arguments|Attributes|Raises|Returns|Yields|Note|Notes|Example|Examples):")
ITEM = re.compile(r"([*-] |\d+\. |[\w`*., ]+(\([^)]*\))?: )")


def files() -> list[str]:
    """All files of ours with prose, without this one, which quotes the patterns."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in TEXT]
    found += [path for pattern in AT_TOP for path in ROOT.glob(pattern)]
    names = (path.relative_to(ROOT).as_posix() for path in found)
    return sorted(name for name in names if name != THIS)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def python_files() -> list[str]:
    return [name for name in files() if name.endswith(".py")]


def unwrapped(text: str) -> str:
    """Join wrapped lines, comments and adjacent string literals, so that a pattern across two lines counts."""
    text = re.sub(r"""["']\s*\n\s*f?r?["']""", "", text)
    return re.sub(r"\s*\n[ \t]*(?:# ?|> ?)?", " ", text)


def matches(text: str) -> list[str]:
    return [found.group() for pattern in PATTERNS for found in re.finditer(pattern, text, re.IGNORECASE)]


def without_odd_words(name: str, text: str) -> str:
    """Leave out the last column of the glossary, which lists the words that are not used."""
    if name != "docs/glossary.md":
        return text
    return "\n".join(line.rpartition(" | ")[0] if line.startswith("|") else line for line in text.splitlines())


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Find the docstrings of modules, classes, functions and attributes, with their line."""
    for node in ast.walk(ast.parse(source)):
        for statement in node.body if isinstance(node, SCOPES) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, inspect.cleandoc(value.value)


def comments(source: str) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join(token.string for token in tokens if token.type == tokenize.COMMENT)


def paragraphs(docstring: str) -> Iterator[str]:
    """Split at blank lines, at items of lists and at entries of sections. Examples are left out."""
    lines: list[str] = []
    in_section = False
    for line in [*docstring.splitlines(), ""]:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        is_head = not indent and SECTION.fullmatch(text) is not None
        starts = not text or is_head or (ITEM.match(text) is not None and indent in {0, 4})
        if starts and lines:
            yield " ".join(lines)
            lines = []
        if is_head or (text and not indent):
            in_section = is_head
        is_example = indent >= 4 and not in_section and not lines
        if text and not is_head and not is_example and not text.startswith(("|", ">>>")):
            lines.append(text)


def long_sentences(docstring: str) -> list[str]:
    return [
        sentence
        for paragraph in paragraphs(docstring)
        for sentence in re.split(r"(?<=[.!?])[\"')]?\s+(?=[^a-z])", paragraph)
        if len(sentence.split()) > LONGEST_SENTENCE
    ]


def summaries_with_semicolon(docstring: str) -> list[str]:
    """The first line, if it has a semicolon outside of backticks."""
    summary = docstring.partition("\n")[0]
    return [summary] if ";" in re.sub(r"`[^`]*`", "", summary) else []


@pytest.mark.parametrize("folder", [*FOLDERS, ""])
def test_prose_has_no_clauses_without_an_actor(folder: str) -> None:
    """Whole texts are searched: docstrings, comments, pages and messages, also across the ends of lines."""
    wrong = []
    for name in files():
        if name.rpartition("/")[0].partition("/")[0] == folder:
            found = matches(unwrapped(without_odd_words(name, read(name))))
            if len(found) != ALLOWED.get(name, 0):
                wrong.append(f"{name}: {found}, {ALLOWED.get(name, 0)} allowed")
    assert not wrong, "\n".join(wrong)


def test_patterns_are_found_in_every_kind_of_text() -> None:
    """The test above does not pass for want of matches, and reads every folder that exists."""
    assert matches(unwrapped("# a list of what\n    # is left")) == ["what is"]
    assert matches(unwrapped('raise E("there "\n    f"is no {x}")')) == ["is no"]
    assert matches("Somebody was told; Whoever says so") == ["Somebody", "Whoever", "told", "says so"]
    assert matches("whatever is left, nobody_else, foretold, this notes it") == []
    assert without_odd_words("docs/glossary.md", "| notified | a call | told |") == "| notified | a call"
    assert {name.partition("/")[0] for name in files() if "/" in name} == {
        folder for folder in FOLDERS if (ROOT / folder).is_dir()
    }


def test_names_of_tests_have_at_most_60_characters() -> None:
    """The delicate property of a test is in its docstring, not in its name."""
    wrong = [
        f"{name}: {found}"
        for name in python_files()
        for found in re.findall(r"def (test_\w+)", read(name))
        if len(found) > LONGEST_TEST_NAME
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", CEILINGS)
def test_hard_sentences_of_docstrings_only_become_fewer(folder: str) -> None:
    """The ceilings are exact, so that they fall with every sentence that is made shorter."""
    long, with_semicolon = [], []
    for name in python_files():
        if name.startswith(f"{folder}/"):
            for line, docstring in docstrings(read(name)):
                long += [f"{name}:{line}: {sentence}" for sentence in long_sentences(docstring)]
                with_semicolon += [f"{name}:{line}: {summary}" for summary in summaries_with_semicolon(docstring)]
    counted = (len(long), len(with_semicolon))
    assert counted == CEILINGS[folder], "\n".join([f"{counted}, not {CEILINGS[folder]}", *long, *with_semicolon])


def test_sentences_are_split_at_their_ends_and_entries() -> None:
    """Words of one entry, item or sentence do not count for the next one."""
    long, half = "Word" + " word" * 25, "Word" + " word" * 12
    assert long_sentences(f"Short. {long}.") == [f"{long}."]
    assert long_sentences(f"{half}. {half}. Short.") == []
    entries = "Do it.\n\nArgs:\n    first: {0}\n        {0}.\n    second: {0}.\n\nRaises:\n    Error: {0}.\n"
    assert len(long_sentences(entries.format(half))) == 1
    assert summaries_with_semicolon("Do; it.\n\nMore.") == ["Do; it."]
    assert summaries_with_semicolon("Run `a; b`.\n\nMore; more.") == []
    assert long_sentences(f"Do it.\n\n    {long}\n\n* {half}\n* {half}\n") == []


def test_ruff_checks_the_mood_of_docstrings() -> None:
    """Google's convention leaves D401 out unless it is selected by its own name."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        lint = tomllib.load(file)["tool"]["ruff"]["lint"]
    assert "D401" in lint["select"]
    assert "D401" not in lint["ignore"]
    for pattern, ignored in lint["per-file-ignores"].items():
        if pattern.startswith(("qts_data", "scripts")):
            assert not {"D", "D4", "D401"} & set(ignored), pattern


def test_no_comment_or_docstring_switches_the_mood_check_off() -> None:
    """An exception would keep a sentence from being rewritten."""
    wrong = [name for name in python_files() if re.search(r"noqa:.*\bD401\b", comments(read(name)))]
    assert not wrong, wrong
