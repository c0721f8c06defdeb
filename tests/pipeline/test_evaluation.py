"""The meta-test's figures and files."""

import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest

from pipeline.comparison import compare
from pipeline.config import build_experiment
from pipeline.errors import BadInputError
from pipeline.evaluation import Evaluation, TaskCurve
from pipeline.local import LocalBackend
from pipeline.plots import plot_evaluation
from pipeline.protocols import learner_of, protocol_of
from pipeline.runs import json_text
from pipeline.server import Start
from tests.pipeline.evaluations_for_tests import DIGEST, T_975_OF_2, curve, evaluation, run_of
from tests.pipeline.runs_for_tests import make_trainer, tiny


def test_auc_is_the_mean_error_over_the_steps():
    errors = np.array([1.0, 0.5, 0.25, 0.25], np.float32)
    one = TaskCurve("leap", "a", 0, errors, errors, {"accuracy": 0.75, "loss": 2.0})
    assert one.figures() == {"auc": 0.5, "accuracy": 0.75, "loss": 2.0}


def test_interval_is_over_tasks_and_repeats_are_averaged_first():
    accuracies = {"a": (0.1, 0.3), "b": (0.5, 0.5), "c": (0.8, 1.0)}
    curves = [
        curve(task=task, repeat=repeat, accuracy=value)
        for task, values in accuracies.items()
        for repeat, value in enumerate(values)
    ]
    got = evaluation(curves).summary()["leap"]["accuracy"]
    means = [0.2, 0.5, 0.9]
    assert got["mean"] == pytest.approx(statistics.fmean(means))
    assert got["ci95"] == pytest.approx(T_975_OF_2 * statistics.stdev(means) / math.sqrt(3))
    assert (got["tasks"], got["seeds"]) == (3, 1)


@pytest.mark.parametrize("not_finite", [math.nan, math.inf])
def test_diverged_adaptation_counts_as_wrong_from_there_on(not_finite):
    losses = np.array([1.0, 2.0, not_finite, 3.0], np.float32)
    one = replace(curve(error=0.5, accuracy=0.2), losses=losses)
    figures = evaluation([one]).summary()["leap"]
    assert figures["auc"]["mean"] == 0.75  # two steps at 0.5, two at 1
    assert figures["accuracy"]["mean"] == 0
    assert math.isnan(figures["loss"]["mean"])


def test_last_update_that_diverges_counts_as_wrong_on_held_out_data():
    one = replace(curve(error=0.5), metrics={"accuracy": 0.2, "error": 0.8, "loss": math.nan})
    figures = evaluation([one]).summary()["leap"]
    assert [figures[name]["mean"] for name in ("auc", "accuracy", "error")] == [0.5, 0, 1]


def test_divergence_as_the_worker_makes_it_is_no_chance_level(tmp_path):
    """The worker goes on to the last step, and a network of NaN is right as often as chance."""
    steps = 8
    experiment = tiny(inner={"lr": 1e10}, evaluation={"num_steps": steps})
    trainer = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)[0]
    curves = trainer.meta_test(["leap"], 2)
    assert all(one.errors.shape == (steps,) and one.errors[-3:].min() < 1 for one in curves)
    assert all(one.metrics["accuracy"] == pytest.approx(1 / 5) for one in curves)
    finite_steps = [int(np.isfinite(one.losses).sum()) for one in curves]
    assert all(0 < count < steps - 3 for count in finite_steps)

    measured = evaluation(curves, num_steps=steps)
    measured.to_parquet(tmp_path)
    for result in (measured, Evaluation.from_parquet(tmp_path), compare([measured]).evaluation):
        figures = json.loads(json_text(result.summary()))["leap"]
        expected = [
            (one.errors[:count].sum() + steps - count) / steps
            for one, count in zip(curves, finite_steps, strict=True)
        ]
        assert figures["auc"]["mean"] == pytest.approx(statistics.fmean(expected))
        assert [figures[name]["mean"] for name in ("accuracy", "error", "loss")] == [0, 1, None]
    plot_evaluation(measured, tmp_path / "plot.png")


def test_files_give_the_same_evaluation_back(tmp_path):
    learner = {"outer.lr": 0.1, "algorithm.options": {"norm": True}}
    before = replace(run_of("leap", "run-1", learner=learner), split="val", outer_step=7)
    before.to_parquet(tmp_path / "evaluation")
    after = Evaluation.from_parquet(tmp_path / "evaluation")
    assert after.summary() == before.summary()
    for name in ("protocol", "learner", "method", "run_id", "split", "outer_step"):
        assert getattr(after, name) == getattr(before, name)
    for one, other in zip(before.curves, after.curves, strict=True):
        np.testing.assert_array_equal(one.losses, other.losses)
        assert (one.task, one.repeat, one.metrics) == (other.task, other.repeat, other.metrics)


@pytest.mark.parametrize("damage", ["absent", "text", "truncated", "other table"])
def test_damaged_files_are_refused_in_one_line(damage, tmp_path):
    run_of("leap", "run-1").to_parquet(tmp_path)
    path = tmp_path / "curves.parquet"
    content = {
        "text": b"no parquet",
        "truncated": path.read_bytes()[:-40],
        "other table": (tmp_path / "summary.parquet").read_bytes(),
    }
    path.unlink()
    if damage != "absent":
        path.write_bytes(content[damage])
    with pytest.raises(BadInputError, match="outerloop evaluate") as caught:
        Evaluation.from_parquet(tmp_path)
    assert "\n" not in str(caught.value)


def test_protocol_holds_the_test_and_learner_the_training():
    def of(**changes):
        experiment = build_experiment(changes, "test")
        return protocol_of(experiment, ["a"], DIGEST), learner_of(experiment, outer_steps=3)

    protocol, learner = of()
    assert of(outer={"lr": 0.7}) == (protocol, learner | {"outer.lr": 0.7})
    assert of(inner={"num_steps": 7}) == (protocol, learner | {"inner.num_steps": 7})
    assert of(inner={"lr": 0.7}) == (protocol | {"inner.lr": 0.7}, learner)
    assert of(seed=5) == (protocol | {"seed": 5}, learner)
    elsewhere = {"workers": {"count": 9}, "inner": {"segment_steps": 3}}
    assert of(**elsewhere) == (protocol, learner)
    assert "outer.delay" not in learner  # which runs of earlier versions do not know
    delayed = of(outer={"optimizer": "delayed-nesterov", "delay": 3})[1]
    assert (delayed["outer.delay"], delayed["outer.activation"]) == (3, 0)


def test_learner_names_the_steps_that_were_taken_not_those_that_were_planned():
    experiment = build_experiment({"meta": {"num_steps": 100}}, "test")
    assert learner_of(experiment, outer_steps=7)["meta.num_steps"] == 7


@pytest.mark.parametrize("loss", [1.0, math.nan])
def test_without_a_learning_curve_there_is_no_area(loss, tmp_path):
    none = np.empty(0, np.float32)
    one = replace(curve(), losses=none, errors=none, metrics={"accuracy": 0.7, "loss": loss})
    evaluation([one]).to_parquet(tmp_path)
    summary = Evaluation.from_parquet(tmp_path).summary()["leap"]
    assert set(summary) == {"accuracy", "loss"}
    assert summary["accuracy"]["mean"] == (0.7 if math.isfinite(loss) else 0)


def test_diverged_adaptation_gets_no_metric_that_it_never_had():
    metrics = {"loss": math.nan, "perplexity": 3.0}
    (judged,) = evaluation([replace(curve(), metrics=metrics)]).of_method("leap")
    assert judged.metrics.keys() == metrics.keys()
    assert math.isnan(judged.metrics["perplexity"])
