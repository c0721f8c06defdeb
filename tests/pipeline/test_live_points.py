"""Curves of tasks under way, in a real MLflow store: no point twice, whatever is begun again."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from pipeline.live_points import MAX_NAMES, LivePoints, live_name
from pipeline.live_report import LiveReport
from pipeline.progress import SilentProgress, TaskProgress
from pipeline.tracking import Tracker
from tests.pipeline.live_for_tests import segment, spec
from tests.pipeline.mlflow_for_tests import client, curve, run_folder
from tests.processes import start

NUM_STEPS = 100
ALWAYS = 1e-9
STEPS = "live/pong/inner_steps"

STREAMS_SEGMENTS = """
import sys
from pathlib import Path
from tests.pipeline.test_live_points import stream, tracked
uri, folder, *numbers = sys.argv[1:]
meta_step, attempt, first, last = map(int, numbers)
with tracked(uri, Path(folder)) as (live, tracker):
    stream(live, meta_step, attempt, first, last)
"""


@contextmanager
def tracked(uri, folder):
    """A report whose points go to a real tracker, which is finished at the end."""
    tracker = Tracker(uri, "live", folder)
    points = LivePoints(tracker.log_metrics, ALWAYS, tracker.metric_keys)
    yield LiveReport(lambda spec: NUM_STEPS, SilentProgress(), points), tracker
    assert tracker.finish("FINISHED", timeout_s=120) == 0


def stream(live, meta_step, attempt, first, last):
    """Segments of ten steps of one task; the last one of the task ends it."""
    one = spec(0, meta_step, attempt)
    for step in range(first, last, 10):
        live.take(segment(one, step, 10, final=step + 10 == NUM_STEPS))


def begin(live, meta_step):
    live.begin("outer step", [spec(0, meta_step)])


def points_of(uri, tracker, key=STEPS):
    found = curve(uri, tracker.mlflow_run_id, key)
    assert all(a < b for (a, _), (b, _) in pairwise(found)), found
    return found


def test_curves_go_on_from_one_outer_step_to_the_next(database, tmp_path):
    with tracked(database, run_folder(tmp_path)) as (live, tracker):
        for meta_step in range(3):
            begin(live, meta_step)
            stream(live, meta_step, 0, 0, NUM_STEPS)
    expected = [(100 * m + s, s) for m in range(3) for s in range(10, 100, 10)]
    assert points_of(database, tracker) == expected
    keys = set(client(database).get_run(tracker.mlflow_run_id).data.metrics)
    names = ("inner_steps", "loss", "inner_steps_per_s", "eta_s")
    assert keys == {f"live/pong/{name}" for name in names}


def test_a_task_in_an_environment_has_curves_of_its_return(database, tmp_path):
    with tracked(database, run_folder(tmp_path)) as (live, tracker):
        begin(live, 0)
        live.take(segment(spec(), 0, 10, returns=[-2.0] * 10))
        live.take(segment(spec(), 10, 10, returns=[3.0] * 10))
    assert points_of(database, tracker, "live/pong/return") == [(10, -2.0), (20, 3.0)]
    assert points_of(database, tracker, "live/pong/env_steps") == [(10, 40), (20, 80)]


@pytest.mark.parametrize("first", [0, 50], ids=["from its start", "from its middle"])
def test_a_task_that_is_begun_again_has_no_point_twice(database, tmp_path, first):
    with tracked(database, run_folder(tmp_path)) as (live, tracker):
        begin(live, 1)
        stream(live, 1, 0, 0, 70)
        stream(live, 1, 1, first, NUM_STEPS)
    assert points_of(database, tracker) == [(100 + s, s) for s in range(10, 100, 10)]


@pytest.mark.parametrize("first", [0, 50], ids=["from its start", "from its middle"])
def test_a_run_that_is_resumed_in_another_process_has_no_point_twice(database, tmp_path, first):
    folder = run_folder(tmp_path)
    for numbers in ((0, 0, 0, 100), (1, 0, 0, 70), (1, 0, first, 100)):
        process = start(STREAMS_SEGMENTS, database, folder, *numbers)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    with tracked(database, folder) as (_, tracker):
        pass
    expected = [(100 * m + s, s) for m in range(2) for s in range(10, 100, 10)]
    assert points_of(database, tracker) == expected


def test_two_places_of_one_task_have_curves_of_their_own(database, tmp_path):
    one, two = spec(0), replace(spec(1), task_id=spec(0).task_id)
    with tracked(database, run_folder(tmp_path)) as (live, tracker):
        live.begin("outer step", [one, two])
        live.take(segment(two, 0, 20))
        live.take(segment(one, 0, 10))
    assert points_of(database, tracker) == [(10, 10)]
    assert points_of(database, tracker, "live/pong 2/inner_steps") == [(20, 20)]


def test_points_are_as_far_apart_as_asked_and_short_tasks_have_none():
    logged = []
    points = LivePoints(lambda step, values: logged.append(step), 30.0)
    for meta_step in range(3):  # 29 s each
        for steps in range(1, 30):
            now = 100.0 * meta_step + steps
            points.take(standing(steps, begun=100.0 * meta_step), meta_step, now)
    assert logged == []
    for steps in range(1, 100):
        points.take(standing(steps, begun=1000.0), 3, 1000.0 + steps)
    assert logged == [330, 360, 390]


def test_an_attempt_begun_again_does_not_bring_the_next_point_nearer():
    logged = []
    points = LivePoints(lambda step, values: logged.append(step), 30.0)
    points.take(standing(30, begun=0.0), 0, 30.0)
    points.take(standing(80, begun=-60.0), 0, 40.0)  # a first segment of long steps
    points.take(standing(90, begun=-60.0), 0, 60.0)
    assert logged == [30, 90]


def test_no_seconds_are_no_points():
    logged = []
    points = LivePoints(lambda step, values: logged.append(step), 0.0)
    points.take(standing(50, begun=0.0), 0, 1e9)
    assert logged == []


def test_the_tasks_that_have_curves_are_bounded_with_one_warning(database, tmp_path, caplog):
    folder = run_folder(tmp_path)
    for names in (range(60), range(30, 250)):  # a run, and the same run resumed
        with tracked(database, folder) as (live, tracker):
            for name in names:
                live.begin("outer step", [spec(0, name)])
                live.take(segment(spec(0, name), 0, 10, f"task {name}", returns=[0.0] * 10))
    keys = set(client(database).get_run(tracker.mlflow_run_id).data.metrics)
    assert {key.split("/")[1] for key in keys} == {f"task {n}" for n in range(MAX_NAMES)}
    assert len(keys) <= 6 * MAX_NAMES
    said = [r.getMessage() for r in caplog.records if "the first without" in r.getMessage()]
    assert said == [
        "live/… in MLflow: the run has curves of 100 tasks under way, and gets no more; "
        "'task 100' is the first without"
    ]


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("CartPole-v1 #train-3", "CartPole-v1 train-3"),
        ("ALE/Pong (hard), 50 %", "ALE_Pong _hard__ 50 _"),
        ("..", "_"),
        ("", "_"),
        ("path/" * 60 + "é", ("path_" * 60 + "é")[-200:]),
    ],
)
def test_names_are_as_mlflow_takes_them(database, tmp_path, task, name):
    assert live_name(task) == name
    with tracked(database, run_folder(tmp_path)) as (live, tracker):
        begin(live, 0)
        live.take(segment(spec(), 0, 10, task))
    assert points_of(database, tracker, f"live/{name}/inner_steps") == [(10, 10)]


def test_a_loss_that_is_no_number_is_left_out():
    logged = []
    points = LivePoints(lambda step, values: logged.append(values), ALWAYS)
    points.take(standing(10, begun=0.0, loss=float("nan")), 0, 10.0)
    assert set(logged[0]) == {"live/pong/inner_steps"}


def standing(steps, begun, loss=1.0):
    return TaskProgress("pong", 0, steps, NUM_STEPS, None, None, loss, None, None, begun, 0.0, 0.0)
