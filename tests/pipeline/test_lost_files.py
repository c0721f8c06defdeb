"""What a run does without a part of its folder: it says so, and never begins again in silence."""

from __future__ import annotations

import shutil
import socket

import pytest

from pipeline import run_ending, session
from pipeline.errors import BadInputError
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from tests.pipeline.copies_for_tests import Machine, experiment
from tests.processes import start


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    return Machine(tmp_path / "home", monkeypatch)


@pytest.mark.parametrize("is_emptied", [True, False])
def test_a_finished_run_without_checkpoints_does_not_begin_again(machine, database, is_emptied):
    run = machine.train_until(1, experiment("", database))
    shutil.rmtree(run.checkpoints)
    if is_emptied:
        run.checkpoints.mkdir()
    before = run.summary.read_bytes(), run.metrics.read_bytes()
    for work in (session.resume, session.evaluate):
        with pytest.raises(
            BadInputError, match=r"holds no checkpoint, but summary\.json tells of 1"
        ):
            work(run, (), SilentProgress())
    assert (run.summary.read_bytes(), run.metrics.read_bytes()) == before


def test_a_run_that_never_had_a_checkpoint_begins_unless_their_folder_is_gone(machine, database):
    machine.train_until(0, experiment("", database))  # sets the home
    run = RunFolder.create(experiment("", database, meta={"num_steps": 1}))
    run.checkpoints.rmdir()
    with pytest.raises(BadInputError, match=r"checkpoints: is missing; put the folder back"):
        session.resume(run, (), SilentProgress())
    run.checkpoints.mkdir()
    assert session.resume(run, (), SilentProgress()).outer_steps == 1


LOSES_ITS_STORE = """
import os, sys
from pathlib import Path
from jobs.cli import run
assert run(["evaluate", sys.argv[1]]) == 0
assert run(["verify", sys.argv[1]]) == 0
"""


def test_a_run_whose_store_was_lost_has_all_of_it_again_once_it_is_evaluated(machine, monkeypatch):
    run = machine.train_until(1, experiment("", f"sqlite:///{machine.home.parent}/lost.db"))
    (machine.home.parent / "lost.db").unlink()
    process = start(LOSES_ITS_STORE, run.path)  # MLflow would hold on to the store that is gone
    said, errors = process.communicate(timeout=240)
    assert process.returncode == 0, said + errors
    assert "parameters, artifacts and model come with: outerloop evaluate" in run.log.read_text()


def test_a_run_that_could_not_deliver_all_says_so_in_its_result(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(run_ending, "FINISH_TIMEOUT_S", 1.0)
    monkeypatch.setattr(run_ending, "COPY_TIMEOUT_S", 1.0)
    with socket.socket() as nobody:  # bound, not listening: every connection is refused
        nobody.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        store = tmp_path / "store"
        copied = experiment(str(store / "copies"), away, meta={"num_steps": 1})
        store.touch()  # no folder can be made there
        monkeypatch.setenv("OUTERLOOP_HOME", str(machine.home))
        result = session.train(copied, SilentProgress())
    mlflow, copies = result.notes
    assert "points and other items are not in MLflow yet; send them with: outerloop sync" in mlflow
    assert "the newest state is not copied yet; copy it with: outerloop evaluate" in copies
