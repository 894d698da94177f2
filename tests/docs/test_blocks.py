"""No block of a page escapes: test_python_blocks.py and test_shell_blocks.py run all blocks of their languages."""

from __future__ import annotations

import re
from typing import Final

import pytest

from qts_data.importers import FORMATS
from tests.fixtures.fix_cli import ROOT
from tests.fixtures.pages import LANGUAGES, blocks, collect, commands, pages, pages_with

TOML_PAGES: Final = {"docs/settings.md", "docs/google-sheets.md"}
"""Their TOML is read by test_shell_blocks.py: as settings, and as the mapping of an import."""

COMMAND: Final = re.compile(
    r"^(?:\$ )?(?:qts-data|alembic|make|pip|docker|python3?|sudo|import|from|async)\s", re.MULTILINE
)


def test_every_block_is_run_by_a_test() -> None:
    every = blocks()
    assert len(every) > 30
    assert not [block.place for block in every if block.language not in LANGUAGES]
    assert set(pages_with("toml")) == TOML_PAGES
    assert pages_with("ini") == ["docs/schema.md"]  # test_wheel.py migrates with it
    assert not [block.place for block in every if block.language == "text" and COMMAND.search(block.text)]
    assert all(list(commands(block)) for block in every if block.language == "shell")


def test_every_page_is_walked() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in pages()}
    assert {"README.md", "README.ko.md", "CONTRIBUTING.md", "docs/book.md"} <= names
    fences = sum(path.read_text(encoding="utf-8").count("\n```") for path in pages())
    assert fences == 2 * len(blocks())


def test_code_outside_of_fences_is_no_command() -> None:
    """A block by indentation has no language, so that no test would see it."""
    for path in pages():
        text = path.read_text(encoding="utf-8")
        outside = "".join(re.split(r"^ *```.*?^ *```$", text, flags=re.MULTILINE | re.DOTALL))
        indented = re.findall(r"(?<=\n\n)(?: {4}.+\n)+", outside)
        assert not [block for block in indented if COMMAND.search(block)], path


def test_each_layout_of_files_is_described() -> None:
    text = (ROOT / "docs" / "market-data.md").read_text(encoding="utf-8")
    assert not [name for name in FORMATS if f"`{name}`" not in text]


def test_a_block_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"page\.md:3: the block has no end"):
        collect("page.md", "text\n```python\nx = 1\n")


def test_a_longer_fence_may_hold_a_shorter_one() -> None:
    (block,) = collect("page.md", "````text\n```\ninner\n```\n````\n")
    assert block.text == "```\ninner\n```\n"
