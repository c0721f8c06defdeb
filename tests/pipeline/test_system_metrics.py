"""Figures of the driver's machine: MLflow's own keys, at most so often, and on through a resume."""

from __future__ import annotations

import time

import psutil

from pipeline import session
from pipeline.metric_log import read_curve
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from pipeline.system_metrics import SystemMetrics
from pipeline.verify import verify_run
from tests.pipeline.mlflow_for_tests import client
from tests.pipeline.runs_for_tests import tiny

ALWAYS = 1e-9
BUSY = "system/cpu_utilization_percentage"


def test_a_point_comes_when_its_time_is_over_and_says_how_old_the_run_is(tmp_path):
    logged = []
    metrics = SystemMetrics(lambda *point: logged.append(point), 30, time.time() - 7200, tmp_path)
    begun = time.monotonic()
    for now in (begun, begun + 20, begun + 31, begun + 32, begun + 50, begun + 62):
        metrics.take(now)
    assert [7200 <= step < 7260 for step, _ in logged] == [True, True]
    figures = logged[0][1]
    assert 0 <= figures[BUSY] <= 100
    assert 0 < figures["system/system_memory_usage_megabytes"] < psutil.virtual_memory().total / 1e6
    assert 0 < figures["system/disk_usage_percentage"] <= 100


def test_without_an_interval_there_are_none(tmp_path):
    logged = []
    metrics = SystemMetrics(lambda *point: logged.append(point), 0, time.time(), tmp_path)
    metrics.take(time.monotonic() + 1e6)
    assert logged == []


def test_they_are_points_of_the_run_in_mlflow_and_go_on_when_it_is_resumed(
    tmp_path, monkeypatch, database
):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    tracking = {"uri": database, "system_every_s": ALWAYS}
    experiment = tiny(meta={"num_steps": 1}, tracking=tracking)
    result = session.train(experiment, SilentProgress(), "a-name-without-a-time")
    run = RunFolder(result.run_dir)
    first = read_curve(run.metrics, BUSY)
    time.sleep(1.1)  # a step is a second
    session.resume(run, ["meta.num_steps=2"], SilentProgress())
    points = read_curve(run.metrics, BUSY)
    assert len(points) > len(first) > 0
    history = client(database).get_metric_history(result.mlflow_run_id, BUSY)
    assert [(p.step, p.value) for p in history] == [(step, value) for step, value in points]
    assert verify_run(run).report.problems == []
