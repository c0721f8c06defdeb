"""Tasks under way in real runs: on Ray, in whole commands, in log.txt, on the way to MLflow."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pipeline import session
from pipeline.interrupt import StopRequest
from pipeline.live_points import LivePoints, live_name
from pipeline.live_report import LiveReport
from pipeline.local import LocalBackend
from pipeline.progress import BatchProgress, SilentProgress, TaskProgress
from pipeline.run_log import LoggedProgress, logged_to
from pipeline.runs import RunFolder
from pipeline.server import Start
from pipeline.tracking import Tracker
from pipeline.trainer import Trainer
from tests.pipeline.environments_for_tests import control
from tests.pipeline.mlflow_for_tests import client, curve, run_folder
from tests.pipeline.runs_for_tests import make_trainer, parameters, tiny
from tests.pipeline.test_async import Shuffled, asynchronous

ALWAYS = 1e-9
EXPERIMENT = {"meta": {"batch_size": 4, "num_steps": 2}, "inner": {"segment_steps": 2}}


class Told(SilentProgress):
    def __init__(self):
        self.batches = []

    def tasks(self, batch):
        self.batches.append(batch)


def live_trainer(experiment, backend, folder, told, tracker):
    """A trainer that shows every task, and logs every segment, to a real tracker."""
    _, books = make_trainer(experiment, backend, folder)
    books.metrics = tracker
    points = LivePoints(tracker.log_metrics, ALWAYS)
    live = LiveReport(lambda spec: 9, told, points, shown_after_s=0, told_every_s=0)
    silent = SilentProgress()
    return Trainer(experiment, backend, books, StopRequest(), silent, live=live), books


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    experiment = tiny(**EXPERIMENT)
    trainer, _ = make_trainer(experiment, LocalBackend(experiment, Start()), folder)
    trainer.train(2)
    return parameters(folder)


@pytest.mark.ray
def test_tasks_on_ray_are_shown_as_they_go_on_and_logged_once_though_a_worker_dies(
    local_ray, tmp_path, database, expected
):
    from pipeline.cluster import RayBackend

    experiment = tiny(workers={"count": 2}, **EXPERIMENT)
    backend, told = RayBackend(experiment, Start()), Told()
    tracker = Tracker(database, "live on ray", run_folder(tmp_path))
    try:
        trainer, books = live_trainer(experiment, backend, tmp_path, told, tracker)
        pids = backend.worker_pids()
        take, taken = trainer._take, []

        def take_then_kill(segment):
            record = take(segment)
            taken.append(segment)
            if len(taken) == 6:
                busy = next(n for n, slot in enumerate(backend._slots) if slot.streams)
                os.kill(pids[busy], signal.SIGKILL)
            return record

        trainer._take = take_then_kill
        trainer.train(2)
    finally:
        backend.close()
    assert books.counters.retries >= 1
    np.testing.assert_array_equal(parameters(tmp_path), expected)
    shown = [batch for batch in told.batches if batch.tasks]
    assert {batch.title for batch in shown} == {"outer step 1/2", "outer step 2/2"}
    assert all(0 < task.steps < 9 for batch in shown for task in batch.tasks)
    assert told.batches[-1].tasks == ()
    assert (told.batches[-1].steps, told.batches[-1].num_steps) == (36, 36)

    assert tracker.finish("FINISHED", timeout_s=120) == 0
    names = {live_name(segment.task) for segment in taken}
    keys = set(client(database).get_run(tracker.mlflow_run_id).data.metrics)
    assert {key.split("/")[1] for key in keys if key.startswith("live/")} == names
    for name in names:
        points = curve(database, tracker.mlflow_run_id, f"live/{name}/inner_steps")
        assert all(a < b for (a, _), (b, _) in pairwise(points))
        meta_steps = {s.spec.meta_step for s in taken if live_name(s.task) == name}
        assert points == [(9 * m + s, s) for m in sorted(meta_steps) for s in (2, 4, 6, 8)]


def test_async_tasks_are_shown_across_outer_steps_and_logged_once(tmp_path, database):
    experiment = asynchronous(apply_every=1).model_copy(
        update={"inner": tiny(inner={"num_steps": 9, "segment_steps": 2}).inner}
    )
    # Task 0 takes one step, the others run, and so on: it is open for many outer steps.
    backend, told = Shuffled(experiment, room=2, order=[0, 1, 1, 1, 1, 1, 1] * 3), Told()
    tracker = Tracker(database, "live and async", run_folder(tmp_path))
    trainer, books = live_trainer(experiment, backend, tmp_path, told, tracker)
    seen, take = [], trainer._take

    def take_and_note(segment):
        seen.append(segment)
        return take(segment)

    trainer._take = take_and_note
    trainer.train(4)
    assert books.counters.tasks == 4
    titles = [batch.title for batch in told.batches]
    assert sorted(titles) == titles
    assert set(titles) == {f"outer step {number}/4" for number in range(1, 5)}
    assert all(batch.of_tasks and batch.num_steps == 1 for batch in told.batches)
    held = {batch.title for batch in told.batches if any(t.place == 0 for t in batch.tasks)}
    assert len(held) >= 3

    assert tracker.finish("FINISHED", timeout_s=120) == 0
    for segment in seen:
        points = curve(
            database, tracker.mlflow_run_id, f"live/{live_name(segment.task)}/inner_steps"
        )
        assert all(a < b for (a, _), (b, _) in pairwise(points))
        assert all(step == 9 * segment.spec.meta_step + steps for step, steps in points)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def live_points(run):
    lines = (run.path / "tracking" / "metrics.jsonl").read_text().splitlines()
    points = [json.loads(line) for line in lines]
    return [(p["key"], p["step"], p["value"]) for p in points if p["key"].startswith("live/")]


def test_a_command_logs_training_and_meta_test_but_no_other_test(home):
    experiment = control(
        tracking={"live_every_s": ALWAYS},
        meta={"num_steps": 2, "batch_size": 3},
        evaluation={"num_steps": 6},
    )
    result = session.train(experiment, SilentProgress())
    run = RunFolder.open(result.run_id)
    points = live_points(run)
    steps = [point[1] for point in points if point[0] == "live/CartPole-v1 train-0/inner_steps"]
    assert steps == [4, 8, 9 + 4, 9 + 8]
    tested = {key.split("/")[1] for key, *_ in points if "test" in key}
    assert tested == {f"CartPole-v1 test-{n} {m}" for n in (0, 1) for m in ("leap", "scratch")}
    key = "live/CartPole-v1 test-0 leap/inner_steps"
    assert [p for p in points if p[0] == key] == [(key, 2 * 6 + 4, 4)]
    assert curve(result.tracking_uri, result.mlflow_run_id, key) == [(16, 4)]

    session.evaluate(run, (), SilentProgress(), ["evaluation.num_steps=50"])
    assert live_points(run) == points


def test_a_task_of_epochs_is_measured_by_its_own_length(home, tmp_path):
    """The data sets of a run differ in size; a curve goes on where its own last one ended."""
    from PIL import Image

    for ways in (2, 3, 4):
        for label in range(ways):
            folder = tmp_path / f"set{ways}" / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(10):
                Image.new("L", (16, 16), 60 * label + i).save(folder / f"{i}.png")
    names = [f"folder:{tmp_path / f'set{ways}'}" for ways in (2, 3, 4)]
    experiment = tiny(
        task={"kind": "datasets", "batch_size": 4},
        datasets={"names": names, "held_out": names[1:2], "image_size": 16},
        model={"num_filters": 4, "num_blocks": 2, "num_pooled_blocks": 2, "shared": "body"},
        algorithm={"name": "leap", "options": {"norm": False}},
        inner={"epochs": 2, "segment_steps": 3},
        meta={"batch_size": 2, "num_steps": 2},
        tracking={"live_every_s": ALWAYS},
    )
    run = RunFolder.open(session.train(experiment, SilentProgress()).run_id)
    for ways, num_steps in ((2, 2 * 16 // 4), (4, 2 * 32 // 4)):
        steps = [p[1] for p in live_points(run) if p[0].endswith(f"set{ways}/inner_steps")]
        once = range(3, num_steps, 3)
        assert steps == [*once, *(num_steps + step for step in once)]


def test_the_log_names_every_task_under_way_once_in_a_while(tmp_path):
    now = time.monotonic()
    one = TaskProgress("pong", 0, 5, 9, 40, -1.5, 0.25, 2.0, 2.0, now, now, now + 60)
    tasks = tuple(replace(one, name=f"game {place}", place=place) for place in range(12))
    batch = BatchProgress("outer step 1/2", tasks, 60, 108, 24.0)
    told = Told()
    with logged_to(tmp_path / "log.txt", SilentProgress()):
        progress = LoggedProgress(told, tmp_path / "log.txt")
        progress.tasks(batch)
        progress.tasks(batch)
    assert told.batches == [batch, batch]
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert sum("INFO outer step 1/2  ETA 0:24  60/108 inner steps" in line for line in lines) == 1
    assert sum("INFO   game " in line for line in lines) == 12
    assert lines[-1].endswith("game 11  5/9  ETA 0:02  return -1.5  40 env steps  loss 0.25")
