"""The site: strict, whole, and itself all that its pages load."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from typer.main import get_command

from jobs.cli import app
from pipeline.config import Experiment, field_rows
from tests.docs.conftest import build
from tests.processes import ROOT

# What makes a browser load something, by tag; other links are followed by people alone.
LOADED = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "use": "href",
    "video": "src",
}


class Loads(HTMLParser):
    """Collects the addresses that a page loads, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.parts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        address = dict(attrs).get(LOADED.get(tag, ""))
        if address:
            self.addresses.append(address)

    def handle_data(self, data):
        self.parts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.parts)


def from_elsewhere(html: str) -> list[str]:
    """The addresses that a page loads, by tag or style, from another host."""
    styles = re.findall(r"url\(['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", html)
    addresses = [*Loads(html).addresses, *(one for pair in styles for one in pair)]
    return [a for a in addresses if re.match(r"(?:[a-z]+:)?//", a) and "www.w3.org" not in a]


def read(site, page: str) -> str:
    return (site / page / "index.html").read_text(encoding="utf-8")


def text(site, page: str) -> str:
    return Loads(read(site, page)).text


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        "<style>@font-face{src:url(https://fonts.example/a.woff)}</style>",
        '<style>@import "http://fonts.example/css"</style>',
    ],
)
def test_what_comes_from_elsewhere_is_seen(html):
    assert from_elsewhere(html)
    assert not from_elsewhere('<a href="https://arxiv.org/abs/1812.01054">Leap</a>')


def test_pages_and_styles_load_nothing_from_elsewhere(site):
    files = [*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg")]
    assert len(files) > 15
    assert {str(f): from_elsewhere(f.read_text("utf-8")) for f in files} == {
        str(f): [] for f in files
    }


@pytest.mark.parametrize("mark", ['class="mermaid"', 'data-md-component="source"'])
def test_no_page_has_what_the_theme_fetches_scripts_for(site, mark):
    """The first is drawn by a script from a CDN, the second asks GitHub for stars."""
    assert not [page for page in site.rglob("*.html") if mark in page.read_text("utf-8")]


def test_links_within_the_site_lead_to_what_is_there(site):
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its links begin at the root of wherever the site lies
            continue
        for address in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text("utf-8")):
            if ":" not in address:
                found = page.parent / unquote(address)
                assert (found / "index.html" if found.is_dir() else found).is_file(), address


def test_every_page_is_built_and_says_something(site):
    for page in sorted((ROOT / "docs").glob("*.md")):
        name = "" if page.stem == "index" else page.stem
        assert len(text(site, name)) > 1000, page
        assert "<!-- generated" not in read(site, name), page


def test_every_command_and_option_is_in_the_reference(site):
    found = text(site, "commands")

    def check(command, name):
        if hasattr(command, "commands"):
            for word, child in command.commands.items():
                check(child, f"{name} {word}")
            return
        assert name in found
        for param in command.params:
            assert (param.help or "").replace("`", "") in found, param.name
            assert all(o in found for o in param.opts if o.startswith("-")), param.opts

    check(get_command(app), "outerloop")


def test_every_key_is_in_the_reference_with_default_and_bounds(site):
    html = read(site, "configuration")
    for key, _, _ in field_rows(Experiment()):
        assert f"<code>{key}</code>" in html, key
    row = next(line for line in html.split("<tr>") if "<code>meta.batch_size</code>" in line)
    assert "whole number, ≥ 1" in row
    assert "<code>20</code>" in row
    row = next(line for line in html.split("<tr>") if "<code>inner.optimizer</code>" in line)
    assert "<code>sgd</code>, <code>adam</code> or <code>rmsprop</code>" in row


def test_the_failure_table_is_that_of_the_pipeline(site):
    rows = [
        line.split("|")[1].strip()
        for line in (ROOT / "pipeline/README.md").read_text("utf-8").splitlines()
        if line.count(" | ") == 3 and "| what fails" not in line
    ]
    section = text(site, "failures")
    assert "an object is lost" in rows
    assert all(row in section for row in rows if row.startswith(("a ", "an ", "the ")))


def test_dead_links_fail_the_build_each_by_its_name(tmp_path):
    for name in ("docs", "algorithms", "pipeline", "infra"):
        ignored = shutil.ignore_patterns("__pycache__", *(["*.py"] if name != "docs" else []))
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("mkdocs.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    dead = (
        "absent.md",
        "faq.md#no-such-question",
        "../pipeline/README.md#no-such-part",
        "../jobs/experiments/absent.yaml",
    )
    with (tmp_path / "docs/concepts.md").open("a", encoding="utf-8") as page:
        page.write("".join(f"\n[x]({target})\n" for target in dead))
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    for target in dead:
        assert target.removeprefix("../") in built.stderr, target
