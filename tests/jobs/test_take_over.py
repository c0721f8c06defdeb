"""A run that is at work elsewhere: what the commands say of it, and do when they are told to."""

from __future__ import annotations

import json

import pytest

from jobs import cli
from pipeline.copy_owner import Owner, write_owner
from pipeline.storage import Storage
from tests.pipeline.copies_for_tests import Machine, address_of, experiment


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The address of a copy of a run that another machine is at work on."""
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    copied = experiment(str(tmp_path / "store"), tracking)
    run = Machine(tmp_path / "home", monkeypatch).train_until(2, copied)
    address = address_of(copied, run)
    write_owner(Storage(address), Owner("f" * 16, "other-host", 4242, "boot/1", 0.0, False))
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "elsewhere"))
    return address


def test_evaluate_takes_over_only_when_it_is_told_to(place, capsys):
    assert cli.run(["evaluate", place]) == 2
    assert "at once with --take-over" in capsys.readouterr().err
    assert cli.run(["--json", "evaluate", place, "--take-over"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["methods"]


@pytest.mark.parametrize(("command", "words"), [("verify", []), ("watch", ["--game", "test-0"])])
def test_commands_that_take_no_address_do_not_offer_to(command, words, place, capsys):
    assert cli.run([command, place, *words]) == 2
    assert cli.run([command, "--help"]) == 0
    assert "address" not in capsys.readouterr().out
    assert cli.run(["evaluate", "--help"]) == 0
    assert "copy's address" in " ".join(capsys.readouterr().out.split())
