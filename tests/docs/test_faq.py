"""The messages of the questions page are those that the code prints."""

from __future__ import annotations

import ast
import re
from functools import cache
from itertools import chain

import pytest

from tests.docs.pages import page
from tests.processes import ROOT

VALUE = re.compile(r"%(?:\.\d+)?[dsgfr]|…")
BY_TORCH = ("raised OutOfMemoryError", "CUDA out of memory.")


def messages():
    return re.findall(r"^```text\n(.+)\n```$", page("faq"), re.MULTILINE)


def text_of(node):
    """A string of the code, with `…` for the values in it."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)


@cache
def strings():
    """Every string of the code, a line each, cut where a value stands."""
    paths = chain(*((ROOT / package).rglob("*.py") for package in ("pipeline", "jobs")))
    nodes = chain(*(ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in paths))
    texts = [text_of(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)]
    return "\n".join(VALUE.sub("\n", text) for text in texts)


def unknown_pieces(message):
    """What a message has between its values, clause by clause, that no string of the code has."""
    clauses = [clause.strip() for clause in re.split(r"…|[:;] ", message)]
    return [c for c in clauses if len(c) > 2 and c not in BY_TORCH and c not in strings()]


def test_there_are_many_messages():
    assert len(messages()) > 25


@pytest.mark.parametrize("message", messages(), ids=lambda text: text[:40])
def test_a_message_of_the_page_is_in_the_code(message):
    assert not unknown_pieces(message)


def test_a_message_that_nobody_prints_is_found():
    assert unknown_pieces("port …: taken by another program; give another with --port")
