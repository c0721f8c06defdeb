"""What mkdocs calls: pages made from the code, and links that lead out of this folder.

A page says `<!-- generated: NAME -->` where something is put that is kept elsewhere, so that it
is written once. Links between files of the repository are written as they are: what they lead
to becomes part of the site, and dead ones fail a strict build.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from command_reference import commands_text
from configuration_reference import configuration_text
from repository_links import READMES, linked_files, rewritten, site_path

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"^<!-- generated: (\S+) -->$", re.MULTILINE)


def failures_text() -> str:
    """Return the table of pipeline/README.md that says what survives what."""
    text = (ROOT / "pipeline/README.md").read_text(encoding="utf-8")
    section = text.partition("\n## What survives what\n")[2].partition("\n## ")[0]
    if not section:
        raise LookupError("pipeline/README.md: has no section 'What survives what'")
    return section.strip()


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands_text,
    "configuration": configuration_text,
    "failures": failures_text,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the READMEs of the packages to the site, and the files that any page links to."""
    from mkdocs.structure.files import File

    pages = [ROOT / "docs" / f.src_uri for f in files if f.src_uri.endswith(".md")]
    readmes = [ROOT / readme for readme in READMES]
    linked = {target for page in (*pages, *readmes) for target in linked_files(ROOT, page)}
    for path in sorted({*readmes, *linked}):
        place = site_path(path.relative_to(ROOT))
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put what is generated in its place, and let links lead to where files are in the site."""
    source = Path(page.file.abs_src_path or "")
    text = rewritten(ROOT, source, markdown)
    return MARK.sub(lambda found: GENERATED[found[1]](), text)
