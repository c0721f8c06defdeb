"""Each adaptation of a meta-test as a run of its own below the run's, once, with its curve."""

from __future__ import annotations

import pytest

from pipeline import session
from pipeline.evaluation import Evaluation
from pipeline.nested_runs import MAX_POINTS, nested_runs
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from tests.pipeline.evaluations_for_tests import curve
from tests.pipeline.mlflow_for_tests import client
from tests.pipeline.runs_for_tests import tiny


@pytest.fixture
def run(tmp_path, monkeypatch, database):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    experiment = tiny(meta={"num_steps": 1, "batch_size": 2}, tracking={"uri": database})
    result = session.train(experiment, SilentProgress())
    return RunFolder(result.run_dir), result.mlflow_run_id


def below(database, parent):
    store = client(database)
    experiments = [store.get_run(parent).info.experiment_id]
    return store.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent}'")


def test_each_adaptation_is_a_run_below_with_the_curve_that_is_in_the_table(run, database):
    folder, parent = run
    children = {run.info.run_name: run for run in below(database, parent)}
    curves = Evaluation.from_parquet(folder.evaluation).curves
    assert len(children) == len(curves) == 4
    for one in curves:
        child = children[f"{one.method}: {one.task}"]
        assert child.info.status == "FINISHED"
        assert child.data.params["task"] == one.task
        history = client(database).get_metric_history(child.info.run_id, "inner/error")
        points = sorted((point.step, point.value) for point in history)
        assert points == [(step, float(value)) for step, value in enumerate(one.errors)]
        assert child.data.metrics["test/accuracy"] == one.metrics["accuracy"]


def test_a_test_that_comes_to_the_same_adds_none_and_another_one_its_own(run, database):
    folder, parent = run
    session.evaluate(folder, None, SilentProgress())
    assert len(below(database, parent)) == 4
    session.resume(folder, ["meta.num_steps=2"], SilentProgress())
    found = below(database, parent)
    assert sorted(run.data.params["outer_step"] for run in found) == ["1"] * 4 + ["2"] * 4


def test_of_many_adaptations_the_first_tasks_of_each_method_are_taken():
    tasks = [f"task {number}" for number in range(5)]
    curves = [curve(method, task) for method in ("leap", "scratch") for task in tasks]
    evaluation = Evaluation(tuple(curves), {"seed": 0}, "leap")
    named = [run["name"] for run in nested_runs(evaluation, 5)]
    assert named == [f"{m}: task {n}" for m in ("leap", "scratch") for n in (0, 1)]
    assert nested_runs(evaluation, 0) == []


def test_a_long_curve_is_thinned_out_and_keeps_its_ends():
    (nested,) = nested_runs(
        Evaluation((curve("leap", "long", num_steps=100_000),), {"seed": 0}, "leap"), 1
    )
    steps = [step for key, step, _ in nested["points"] if key == "inner/loss"]
    assert len(steps) == MAX_POINTS
    assert (steps[0], steps[-1]) == (0, 99_999)
