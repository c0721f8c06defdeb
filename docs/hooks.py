"""What mkdocs calls: pages made from the code, and links that lead out of this folder.

A page says `<!-- generated: NAME -->` where something is put that is kept elsewhere, so that it
is written once. Links between files of the repository are written as they are: what they lead
to becomes part of the site, and dead ones fail a strict build.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Sections:
    """The sections of a README whose titles begin with `title`, without the title of the first."""

    readme: str
    title: str

    def text(self, place: str) -> str:
        """Return them as they are shown on the page at `place`."""
        path = ROOT / self.readme
        parts = path.read_text(encoding="utf-8").split("\n## ")
        found = [part for part in parts if part.startswith(self.title)]
        if not found:
            raise LookupError(f"{self.readme}: has no section '{self.title}'")
        text = "\n## ".join(found).partition("\n")[2].strip()
        return rewritten(ROOT, path, text, place)


GENERATED: dict[str, Callable[[str], str]] = {
    "commands": lambda place: commands_text(),
    "configuration": lambda place: configuration_text(),
    "failures": Sections("pipeline/README.md", "What survives what").text,
    "metrics": Sections("pipeline/README.md", "Metrics").text,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the READMEs of the packages to the site, and the files that any page links to."""
    from mkdocs.structure.files import File, InclusionLevel

    pages = [ROOT / "docs" / f.src_uri for f in files if f.src_uri.endswith(".md")]
    readmes = [ROOT / readme for readme in READMES]
    linked = {target for page in (*pages, *readmes) for target in linked_files(ROOT, page)}
    for path in sorted({*readmes, *linked}):
        place = site_path(path.relative_to(ROOT))
        if files.get_file_from_path(place) is None:
            file = File.generated(
                config, place, abs_src_path=str(path), inclusion=InclusionLevel.INCLUDED
            )
            files.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put what is generated in its place, and let links lead to where files are in the site."""
    source, place = Path(page.file.abs_src_path or ""), page.file.src_uri
    text = rewritten(ROOT, source, markdown, place)
    return MARK.sub(lambda found: GENERATED[found[1]](place), text)
