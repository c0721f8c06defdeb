"""Links between files of the repository, and where these files lie in the site.

The folder docs/ is the site's root. Any other file of the repository lies under `repository/`.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

READMES = ("README.md", "algorithms/README.md", "pipeline/README.md", "infra/README.md")
FENCE = re.compile(r"^ *(```|~~~)")
LINK = re.compile(r"\]\(([^()\s]+)\)")


def site_path(path: PurePath) -> str:
    """Return where the file `path`, relative to the repository, lies in the site."""
    if path.parts[0] == "docs":
        return PurePath(*path.parts[1:]).as_posix()
    return (PurePath("repository") / path).as_posix()


def linked_files(root: Path, page: Path) -> Iterator[Path]:
    """Yield the files of the repository that the Markdown file `page` links to."""
    for line in _prose(page.read_text(encoding="utf-8").splitlines()):
        for target in LINK.findall(line):
            found = _target(root, page, target)
            if found is not None and found.is_file():
                yield found


def rewritten(root: Path, page: Path, markdown: str, place: str) -> str:
    """Return `markdown`, text of the file `page`, with its links as a page at `place` needs them.

    A link to a folder becomes plain text: the site has no page of it. One to nothing stays as it
    is, for mkdocs to find.
    """

    def link(match: re.Match[str]) -> str:
        found = _target(root, page, match[1])
        if found is None or not found.is_file():
            return match[0]
        target = os.path.relpath(site_path(found.relative_to(root)), os.path.dirname(place))
        anchor = match[1].partition("#")[1:]
        return f"]({PurePath(target).as_posix()}{''.join(anchor)})"

    def line_of(line: str) -> str:
        return LINK.sub(link, _without_folders(root, page, line))

    lines = markdown.splitlines()
    prose = set(_prose_numbers(lines))
    return "\n".join(line_of(line) if i in prose else line for i, line in enumerate(lines))


def _without_folders(root: Path, page: Path, line: str) -> str:
    """Return `line` with links to folders of the repository as plain text."""

    def plain(match: re.Match[str]) -> str:
        found = _target(root, page, match[2])
        return match[1] if found is not None and found.is_dir() else match[0]

    return re.sub(r"(?<!!)\[([^\[\]]*)\]\(([^()\s]+)\)", plain, line)


def _target(root: Path, page: Path, target: str) -> Path | None:
    """Return the path in the repository that a link of `page` leads to; None if to elsewhere."""
    path = target.partition("#")[0]
    if not path or ":" in path or path.startswith("/"):
        return None
    found = Path(os.path.normpath(page.parent / path))
    return found if found.is_relative_to(root) else None


def _prose(lines: list[str]) -> Iterator[str]:
    return (lines[i] for i in _prose_numbers(lines))


def _prose_numbers(lines: list[str]) -> Iterator[int]:
    """Yield the numbers of the lines outside code blocks."""
    fenced = False
    for number, line in enumerate(lines):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            yield number
