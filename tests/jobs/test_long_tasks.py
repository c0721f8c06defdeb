"""A long task at the real command: workers and driver are killed, and little is done again."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.task_states import state_steps
from pipeline.trajectories import read_trajectories
from tests.jobs.test_interruption import answer, command, points
from tests.processes import wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform != "linux", reason="finds workers by their title"),
]
WORKER = "ray::TaskServer"


def small_task(num_steps: int, every: int) -> list[str]:
    """A run of one task, of about a millisecond an inner step."""
    return [
        "data.num_train_tasks=4",
        "data.num_test_tasks=2",
        "task.num_ways=5",
        "task.batch_size=2",
        "task.augment=false",
        "model.num_filters=4",
        f"inner.num_steps={num_steps}",
        "inner.segment_steps=100",
        f"inner.checkpoint_every={every}",
        "meta.batch_size=1",
        "meta.num_steps=1",
        "evaluation.num_steps=5",
    ]


def newest_state(home: Path) -> int:
    folders = home.glob("*/in_flight/step-*")
    return max((step for folder in folders for step in state_steps(folder)), default=0)


def wait_for_state(home: Path, step: int, process) -> None:
    wait_until(lambda: newest_state(home) >= step or process.poll() is not None, timeout_s=900)
    assert process.poll() is None, process.communicate()


def kill_worker(process) -> None:
    (worker,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.name().startswith(WORKER) or WORKER in " ".join(child.cmdline())
    ]
    worker.send_signal(signal.SIGKILL)


def resumptions(folder: Path) -> list[int]:
    text = (folder / "log.txt").read_text()
    return [int(step) for step in re.findall(r"goes on from its inner step (\d+)", text)]


def assert_whole(said: dict, num_steps: int) -> None:
    """Each inner step has one row, and each curve one point for a step."""
    rows = read_trajectories(Path(said["run_dir"]) / "trajectories", ["step", "attempt"])
    np.testing.assert_array_equal(rows["step"].to_numpy(), np.arange(num_steps))
    assert said["inner_steps"] == num_steps
    for key, curve in points(said["tracking_uri"], said["mlflow_run_id"]).items():
        steps = [step for step, _ in curve]
        assert steps == sorted(set(steps)), key
        if key.startswith("outer/"):
            assert steps == [1], key


@pytest.mark.timeout(900)
def test_a_killed_driver_goes_on_in_the_middle_of_its_task(tmp_path):
    words = ["train", "quickstart", "workers.count=1", *small_task(2000, 200)]
    undisturbed = command(tmp_path / "whole", *words)
    code, theirs = answer(undisturbed)
    assert code == 0
    process = command(tmp_path / "home", *words)
    wait_for_state(tmp_path / "home", 1000, process)
    process.kill()
    process.communicate()
    held = newest_state(tmp_path / "home")
    (folder,) = (tmp_path / "home").glob("quickstart-*")
    code, said = answer(command(tmp_path / "home", "train", "--resume", folder.name))
    assert code == 0
    (resumed_at,) = resumptions(folder)
    assert 0 <= held - resumed_at <= 200
    assert_whole(said, 2000)
    assert said["parameters_sha256"] == theirs["parameters_sha256"]
    assert said["final"] == theirs["final"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_worker_killed_in_fifty_thousand_steps_costs_one_checkpoint_at_most(tmp_path, share):
    every, num_steps = 1000, 50_000
    words = ["train", "quickstart", "workers.count=1", *small_task(num_steps, every)]
    process = command(tmp_path, *words, "tracking.live_every_s=1")
    wait_for_state(tmp_path, int(share * num_steps), process)
    before = newest_state(tmp_path)
    kill_worker(process)
    code, said = answer(process)
    assert code == 0
    (resumed_at,) = resumptions(Path(said["run_dir"]))
    print(f"killed at {before} or up to {every} steps later, went on from {resumed_at}")
    assert resumed_at >= before  # so less than `every` steps were taken again
    assert_whole(said, num_steps)
