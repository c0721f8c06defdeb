"""How tasks under way stand: on the terminal, and as curves in MLflow without double points."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from pipeline.live import LiveTasks
from pipeline.live_points import MAX_NAMES, LivePoints, live_name
from pipeline.live_report import LiveReport
from pipeline.local import LocalBackend
from pipeline.messages import TRAJECTORY_SCHEMA, Segment, TaskSpec
from pipeline.metric_log import MetricLog, read_curve
from pipeline.progress import SilentProgress, TaskProgress
from pipeline.server import Start
from pipeline.tracking import Tracker
from tests.pipeline.runs_for_tests import make_trainer, tiny


def spec(index: int = 0, task_id: int | None = None, **fields) -> TaskSpec:
    return TaskSpec(0, index, index if task_id is None else task_id, "train", 0, **fields)


def segment(of: TaskSpec, first: int, num_rows: int, name: str = "pong", **fields) -> Segment:
    """Steps of 10 ms, 40 env steps each; an episode ends in the last one, with return `first`."""
    steps = np.arange(first, first + num_rows)
    values = {
        "step": steps,
        "loss": steps / 10,
        "wall_ms": np.full(num_rows, 10.0),
        "env_steps": 40 * (steps + 1),
        "episode_return": [None] * (num_rows - 1) + [float(first)] if num_rows else [],
    }
    arrays = [
        pa.array(values.get(f.name, [None] * num_rows)).cast(f.type) for f in TRAJECTORY_SCHEMA
    ]
    rows = pa.record_batch(arrays, schema=TRAJECTORY_SCHEMA)
    return Segment(of, 0, fields.pop("final", False), True, name, rows, (), {}, **fields)


def test_a_task_tells_steps_return_loss_speed_and_time_to_go():
    tasks = LiveTasks({spec(): 1000}, begun=0.0)
    tasks.take(segment(spec(), 0, 100), 1000, now=1.0)
    found = tasks.take(segment(spec(), 100, 100), 1000, now=3.0)
    assert found is not None
    assert (found.steps, found.num_steps, found.env_steps) == (200, 1000, 8000)
    assert (found.episode_return, found.loss) == (100.0, pytest.approx(14.95))
    assert found.steps_per_s == pytest.approx(200 / 3)
    assert found.eta_s == pytest.approx(800 / (200 / 3))
    assert tasks.whole(now=3.0) == (200, 1000, pytest.approx(12.0))


def test_an_ended_task_is_forgotten_and_counts_for_the_whole():
    specs = {spec(0): 200, spec(1): 200}
    tasks = LiveTasks(specs, begun=0.0)
    for one in specs:
        tasks.take(segment(one, 0, 100), 200, now=1.0)
    assert tasks.take(segment(spec(0), 100, 100, final=True), 200, now=2.0) is None
    assert [task.place for task in tasks.tasks()] == [1]
    assert tasks.whole(now=2.0)[:2] == (300, 400)


def test_a_new_attempt_replaces_the_old_one_and_may_begin_in_the_middle():
    tasks = LiveTasks({spec(): 1000}, begun=0.0)
    for first in range(0, 500, 100):
        tasks.take(segment(spec(), first, 100), 1000, now=1.0 + first / 100)
    again = spec(attempt=1, resume=300)
    found = tasks.take(segment(again, 300, 100), 1000, now=20.0)
    assert found is not None
    assert found.steps == 400
    assert found.steps_per_s == pytest.approx(100)  # by the time that its own steps took
    assert tasks.whole(now=20.0)[:2] == (400, 1000)


def test_segments_without_rows_say_nothing_of_a_task_but_its_end():
    tasks = LiveTasks({spec(): 1000}, begun=0.0)
    assert tasks.take(segment(spec(), 0, 0), 1000, now=1.0) is None
    tasks.take(segment(spec(), 0, 100), 1000, now=1.0)
    tasks.take(segment(spec(), 100, 0, final=True), 1000, now=2.0)
    assert tasks.tasks() == []


def test_tasks_of_one_name_are_told_apart_by_their_place():
    specs = {spec(0, task_id=7): 100, spec(1, task_id=7): 100}
    tasks = LiveTasks(specs, begun=0.0)
    for one in reversed(list(specs)):
        tasks.take(segment(one, 0, 10), 100, now=1.0)
    assert [task.name for task in tasks.tasks()] == ["pong", "pong 2"]


def standing(name: str = "pong", steps: int = 100, begun: float = 0.0, num_steps: int = 1000):
    return TaskProgress(
        name, 0, steps, num_steps, 40 * steps, None, 0.5, 10.0, 90.0, begun, begun, begun + 60
    )


def test_points_are_as_far_apart_as_was_asked_for():
    logged = []
    points = LivePoints(lambda step, values: logged.append((step, dict(values))), every_s=30)
    for now in (1, 10, 29, 31, 40, 60, 62, 95):
        points.take(standing(steps=now), 2, float(now))
    assert [step for step, _ in logged] == [2000 + now for now in (31, 62, 95)]
    assert logged[0][1] == {
        "live/pong/inner_steps": 31,
        "live/pong/env_steps": 1240,
        "live/pong/loss": 0.5,
        "live/pong/inner_steps_per_s": 10,
        "live/pong/eta_s": 90,
    }
    LivePoints(lambda *_: pytest.fail("0 is never"), every_s=0).take(standing(), 0, 1e9)


def test_names_are_such_as_mlflow_takes():
    assert live_name("CartPole-v1 #train-3") == "CartPole-v1 train-3"
    assert live_name("a/b\\c*") == "a_b_c_"
    assert live_name("..") == "_"


def test_a_run_gets_curves_of_so_many_tasks_and_says_so_once(caplog):
    logged = []
    points = LivePoints(lambda step, values: logged.append(step), 1, known=["live/old/loss"])
    for number in range(MAX_NAMES + 5):
        points.take(standing(f"task {number}"), 0, 10.0)
    assert len(logged) == MAX_NAMES - 1
    assert len([r for r in caplog.records if "gets no more" in r.message]) == 1
    points.take(standing("old"), 0, 10.0)
    assert len(logged) == MAX_NAMES


@pytest.mark.parametrize("restarts_at", [0, 40])
def test_a_task_that_is_begun_again_has_no_double_points(tmp_path, restarts_at):
    """In the same process, and then in a new one that resumes the run."""
    path = tmp_path / "metrics.jsonl"
    for process in range(2):
        log = MetricLog(path)
        points = LivePoints(lambda step, values, log=log: log.append(step, values, 1), 0.5)
        now = 100.0 * process
        for attempt in range(2):
            for steps in range(restarts_at if attempt or process else 10, 100, 10):
                now += 1
                points.take(standing(steps=steps, begun=100.0 * process - 9), 0, now)
        log.close()
    curve = read_curve(path, "live/pong/inner_steps")
    assert [step for step, _ in curve] == list(range(10, 100, 10))


def test_long_tasks_are_shown_while_they_run_and_their_end_is_told():
    class Told(SilentProgress):
        def __init__(self):
            self.batches = []

        def tasks(self, batch):
            self.batches.append(batch)

    told = Told()
    experiment = tiny(inner={"num_steps": 12, "segment_steps": 2}, meta={"num_steps": 2})
    report = LiveReport(lambda _: 12, 2, told, None, shown_after_s=0.0, told_every_s=0.0)
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        trainer, _ = make_trainer(experiment, LocalBackend(experiment, Start()), Path(folder))
        trainer._live = report
        trainer.train(2)
    titles = [batch.title for batch in told.batches]
    assert titles == sorted(titles)
    assert {titles[0], titles[-1]} == {"outer step 1/2", "outer step 2/2"}
    first = [batch for batch in told.batches if batch.title == titles[0]]
    assert [batch.steps for batch in first] == list(range(2, 50, 2))
    assert all(batch.num_steps == 48 for batch in first)
    assert told.batches[-1].tasks == ()
    names = {task.name for batch in told.batches for task in batch.tasks}
    assert len(names) >= 4


def test_short_tasks_are_not_shown():
    class Told(SilentProgress):
        def tasks(self, batch):
            pytest.fail("lines would come and go")

    report = LiveReport(lambda _: 100, 1, Told(), None)
    report.begin([spec()])
    for first in range(0, 100, 10):
        report.take(segment(spec(), first, 10, final=first == 90))


def test_curves_of_tasks_under_way_reach_mlflow_once(tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):  # the run is resumed, and its first segments come again
        tracker = Tracker(uri, "live", tmp_path / "run")
        points = LivePoints(tracker.log_metrics, 1e-9, tracker.metric_keys)
        report = LiveReport(lambda _: 100, 1, SilentProgress(), points)
        report.begin([spec()])
        for first in range(0, 60, 10):
            report.take(segment(spec(), first, 10, name="CartPole-v1 #train-3"))
        tracker.finish("FINISHED")
    client = MlflowClient(uri)
    run_id = tracker.mlflow_run_id
    history = client.get_metric_history(run_id, "live/CartPole-v1 train-3/return")
    assert [(point.step, point.value) for point in history] == [
        (first + 10, float(first)) for first in range(0, 60, 10)
    ]
    assert not any(math.isnan(point.value) for point in history)
