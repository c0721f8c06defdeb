"""Commands, options and keys that the pages name are there."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command

from jobs import catalog
from jobs.cli import app
from pipeline.config import Experiment, field_rows
from tests.docs.pages import page
from tests.processes import ROOT

PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
KEYS = {key for key, _, _ in field_rows(Experiment())} | {"meta.steps"}
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}
EVERYWHERE = {"--json", "--help"}
CALL = re.compile(r"(?:^|\s)outerloop ((?:[a-z-]+|--\w+).*)")


def calls(text):
    """Every call of `outerloop` in code: its words."""
    code = re.findall(r"^```sh.*?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in code for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
        found = re.search(
            r"(?:^|[=$] ?|\s)outerloop ((?:[a-z-]+|--\w+).*)", line.partition(" #")[0]
        )
        if found:
            yield found[1].split()


def command_of(words):
    command = get_command(app)
    while hasattr(command, "commands"):
        word = next(words)
        assert word in command.commands, word
        command = command.commands[word]
    return command


@pytest.mark.parametrize("name", PAGES)
def test_calls_are_of_commands_with_their_options(name):
    for words in calls(page(name)):
        if words[0] in EVERYWHERE:
            continue
        rest = iter(words)
        command = command_of(rest)
        options = {option for param in command.params for option in param.opts} | EVERYWHERE
        assert {word for word in rest if word.startswith("-")} <= options, words


@pytest.mark.parametrize("name", PAGES)
def test_experiments_that_are_trained_are_there(name):
    names = {*catalog.experiment_names(), "EXPERIMENT", "leap-reach.yaml", "mean-reptile.yaml"}
    for words in calls(page(name)):
        if words[0] in ("train", "submit", "show") and len(words) > 1 and words[1][0] != "-":
            assert words[1] in names, words


@pytest.mark.parametrize("name", PAGES)
def test_keys_are_those_of_an_experiment(name):
    for key in re.findall(r"(?<![\w./-])([a-z]+\.[a-z_0-9]+)(?=[=`\s])", page(name)):
        section = key.partition(".")[0]
        if section in SECTIONS and not key.endswith((".py", ".json", ".yaml")):
            assert key in KEYS or key == "algorithm.options", key


def test_words_that_are_not_there_are_found():
    assert list(calls("`outerloop trian x`")) == [["trian", "x"]]
    assert list(calls("```sh\nPYTHONPATH=$PWD outerloop jobs list  # x\n```")) == [["jobs", "list"]]
