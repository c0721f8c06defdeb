"""What the pages of the documentation say, in pieces that can be run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.processes import ROOT

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    """The text of a page."""
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def blocks(name: str, language: str) -> dict[str, str]:
    """The code blocks of a page with a title, by it."""
    found = BLOCK.findall(page(name))
    return {title: text for kind, title, text in found if kind == language and title}


def write_files(name: str, folder: Path) -> None:
    """Write the Python and YAML blocks of a page to the files that they are titled after."""
    for title, text in (blocks(name, "python") | blocks(name, "yaml")).items():
        (folder / title).write_text(text, encoding="utf-8")
