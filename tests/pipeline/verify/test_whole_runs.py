"""Runs that nothing is wrong with, whatever they went through, have no problem; and stay as is."""

from __future__ import annotations

import os
import signal

import pytest

from pipeline import session
from pipeline.progress import SilentProgress
from pipeline.trainer import Trainer
from pipeline.verify import verify_run
from tests.pipeline.runs_for_tests import tiny
from tests.pipeline.verify.conftest import FINE, dies_after, interrupted, trained

KINDS = (
    "sync", "async", "episodes", "control", "budget", "inner checkpoints", "no steps", "datasets",
)  # fmt: skip


def assert_sound(run, state="finished"):
    verdict = verify_run(run)
    assert verdict.report.problems == []
    assert verdict.state == state
    return verdict


def contents(folder):
    """What is in a folder, byte by byte, and when each file was written."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_any_kind_has_no_problem(runs, kind):
    run = runs(kind)
    verdict = assert_sound(run)
    checked = verdict.report.checked
    steps = run.read_summary()["counts"]["outer_steps"]
    assert verdict.status == "FINISHED"
    assert checked["partitions"] == steps
    assert checked["trajectory_rows"] == run.read_summary()["counts"]["inner_steps"]
    assert checked["figures_recomputed"] >= 3 * steps
    assert checked["mlflow_points"] == checked["metric_points"] > 0
    assert checked["evaluations"] == 1
    assert verdict.report.notes == []


def test_looking_changes_nothing(runs, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = runs("sync")
    before = contents(home)
    assert_sound(run)
    assert contents(home) == before
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("num_segments", [1, 9, 14])
def test_a_run_whose_driver_died_has_no_problem_before_and_after_it_is_resumed(home, num_segments):
    sections = FINE | {"checkpoint": {"every": 2, "keep": 2}}
    inner = {"num_steps": 8, "segment_steps": 2, "checkpoint_every": 2}
    run = dies_after(num_segments, tiny(inner=inner, **sections))
    verdict = assert_sound(run, "unfinished")
    if num_segments != 9:
        assert verdict.report.checked["tasks_in_flight"] > 0
    session.resume(run, (), SilentProgress())
    assert_sound(run)


def test_an_interrupted_run_that_goes_on_for_longer(home):
    run = interrupted(tiny(**FINE), after=9)
    assert assert_sound(run, "unfinished").status == "KILLED"
    session.resume(run, (), SilentProgress())
    assert_sound(run)
    session.resume(run, ["meta.steps=6"], SilentProgress())
    assert assert_sound(run).report.checked["partitions"] == 6


def test_an_async_run_that_takes_outer_steps_again(home):
    experiment = tiny(
        meta={"mode": "async", "batch_size": 4, "num_steps": 5, "apply_every": 2},
        checkpoint={"every": 4},
    )
    run = dies_after(20, experiment)
    assert_sound(run, "unfinished")
    session.resume(run, (), SilentProgress())
    assert_sound(run)


def test_another_test_of_a_run(runs, copy):
    run = runs("episodes")
    session.evaluate(run, (), SilentProgress(), ["episodes.num_shots=2"])
    assert assert_sound(run).report.checked["evaluations"] == 2


@pytest.mark.parametrize("checkpoint_every", [0, 4])
def test_a_run_all_of_whose_tasks_were_left_out(home, checkpoint_every):
    inner = {"num_steps": 8, "segment_steps": 4, "lr": 1e18, "checkpoint_every": checkpoint_every}
    run = trained(tiny(inner=inner, **FINE))
    assert run.read_summary()["counts"]["dropped"] == 8
    assert assert_sound(run).report.checked["figures_recomputed"] == 0


@pytest.mark.ray
def test_a_run_on_ray_whose_worker_was_killed(home, local_ray, monkeypatch):
    take, done = Trainer._take, []

    def take_then_kill(self, segment):
        if not done:
            done.append(os.kill(self._backend.worker_pids()[0], signal.SIGKILL))
        return take(self, segment)

    monkeypatch.setattr(Trainer, "_take", take_then_kill)
    run = trained(tiny(workers={"count": 2}, aggregator={"shards": 3}, **FINE))
    assert run.read_summary()["counts"]["retries"] > 0
    assert_sound(run)


def test_a_run_that_is_under_way_is_checked_as_far_as_it_is_stable(runs, copy):
    run = copy(runs("sync"))
    (run.trajectories / "meta_step=000004").mkdir()  # as it is being written
    run.summary.unlink()
    with run.metrics.open("ab") as log:
        log.write(b'{"key": "train/lo')
    assert verify_run(run).report.problems != []
    with run.locked():
        verdict = assert_sound(run, "running")
    assert "a process is at work on the run" in verdict.report.notes[0]
