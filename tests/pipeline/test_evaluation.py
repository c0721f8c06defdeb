"""The meta-test's figures, files, comparison and plots."""

import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.comparison import compare
from pipeline.config import build_experiment
from pipeline.errors import BadInputError
from pipeline.evaluation import Evaluation, TaskCurve, learner_of, protocol_of
from pipeline.local import LocalBackend
from pipeline.plots import mean_and_band, plot_evaluation, plot_meta_training
from pipeline.runs import json_text
from pipeline.server import Start
from tests.pipeline.runs_for_tests import make_trainer, tiny

T_975_OF_2 = 4.302652729911275  # Student's t, two degrees of freedom
NUM_STEPS = 4


def curve(method="leap", task="a", repeat=0, error=0.5, accuracy=0.5, num_steps=NUM_STEPS):
    errors = np.full(num_steps, error, np.float32)
    return TaskCurve(method, task, repeat, 3 * errors, errors, {"accuracy": accuracy, "loss": 1.0})


def protocol(seed=0, tasks=("a", "b", "c"), num_steps=NUM_STEPS, **changes):
    tree = {"seed": seed, "evaluation": {"num_steps": num_steps}} | changes
    return protocol_of(build_experiment(tree, "test"), tasks)


def evaluation(curves, method="leap", run_id="run", learner=None, **changes):
    return Evaluation(tuple(curves), protocol(**changes), method, run_id, learner or {})


def run_of(method, run_id, seed=0, error=0.5, learner=None, **changes):
    """A run's meta-test on three tasks beside scratch, which depends on the seed alone."""
    curves = [curve(method, task, error=error) for task in "abc"]
    curves += [curve("scratch", task, error=0.9 + seed / 100) for task in "abc"]
    return evaluation(curves, method, run_id, learner, seed=seed, **changes)


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
    for result in (measured, Evaluation.from_parquet(tmp_path), compare([measured])):
        figures = json.loads(json_text(result.summary()))["leap"]
        expected = [
            (one.errors[:count].sum() + steps - count) / steps
            for one, count in zip(curves, finite_steps, strict=True)
        ]
        assert figures["auc"]["mean"] == pytest.approx(statistics.fmean(expected))
        assert [figures[name]["mean"] for name in ("accuracy", "error", "loss")] == [0, 1, None]
    plot_evaluation(measured, tmp_path / "plot.png")


def test_files_give_the_same_evaluation_back(tmp_path):
    before = run_of("leap", "run-1", learner={"outer.lr": 0.1, "algorithm.options": {"norm": True}})
    before.to_parquet(tmp_path / "evaluation")
    after = Evaluation.from_parquet(tmp_path / "evaluation")
    assert after.summary() == before.summary()
    for name in ("protocol", "learner", "method", "run_id"):
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
        return protocol_of(experiment, ["a"]), learner_of(experiment)

    protocol, learner = of()
    assert of(outer={"lr": 0.7}) == (protocol, learner | {"outer.lr": 0.7})
    assert of(inner={"num_steps": 7}) == (protocol, learner | {"inner.num_steps": 7})
    assert of(inner={"lr": 0.7}) == (protocol | {"inner.lr": 0.7}, learner)
    assert of(seed=5) == (protocol | {"seed": 5}, learner)
    elsewhere = {"workers": {"count": 9}, "inner": {"segment_steps": 3}}
    assert of(**elsewhere) == (protocol, learner)


def test_scratch_of_two_runs_is_kept_once():
    merged = compare([run_of("leap", "r1", error=0.2), run_of("reptile", "r2", error=0.4)])
    assert merged.methods == ("leap", "reptile", "scratch")
    assert len(merged.of_method("scratch")) == 3
    assert merged.summary()["leap"]["auc"]["mean"] == pytest.approx(0.2)


def test_runs_that_differ_only_in_seed_are_one_method_over_task_seed_pairs():
    merged = compare([run_of("leap", f"r{seed}", seed, error=0.2 + seed / 10) for seed in (0, 1)])
    row = merged.summary()["leap"]["auc"]
    values = [0.2] * 3 + [0.3] * 3
    assert merged.methods == ("leap", "scratch")
    assert (row["tasks"], row["seeds"]) == (3, 2)
    assert row["mean"] == pytest.approx(0.25)
    t_of_5 = 2.5705818366147395
    assert row["ci95"] == pytest.approx(t_of_5 * statistics.stdev(values) / math.sqrt(6))
    assert len(merged.of_method("scratch")) == 6


def test_same_algorithm_with_other_settings_goes_by_its_run_id():
    runs = [run_of("leap", "r1", learner={"outer.lr": 0.1}), run_of("leap", "r2", learner={})]
    assert compare(runs).methods == ("leap (r1)", "leap (r2)", "scratch")


def test_same_settings_and_seed_twice_are_two_rows():
    merged = compare([run_of("leap", "r1"), run_of("leap", "r2")])
    assert merged.methods == ("leap (r1)", "leap (r2)", "scratch")


def test_held_out_tasks_may_differ_between_seeds_only():
    compare([run_of("leap", "r1", 0), run_of("leap", "r2", 1, tasks=("x", "y", "z"))])
    with pytest.raises(BadInputError, match="test_tasks"):
        compare([run_of("leap", "r1", 0), run_of("reptile", "r2", 0, tasks=("x", "y", "z"))])


def test_other_protocol_is_refused_with_key_and_both_values():
    with pytest.raises(BadInputError, match=r"r1 and r2.*task\.batch_size is 20 .* and 10 in"):
        compare([run_of("leap", "r1"), run_of("reptile", "r2", task={"batch_size": 10})])


def test_band_is_the_interval_over_tasks_at_each_step():
    errors = np.array([[0.0, 0.2], [0.3, 0.2], [0.9, 0.2]], np.float32)
    curves = [TaskCurve("leap", str(i), 0, e, e, {}) for i, e in enumerate(errors)]
    mean, half = mean_and_band(curves)
    np.testing.assert_allclose(mean, [0.4, 0.2], rtol=1e-6)
    spread = statistics.stdev([0.0, 0.3, 0.9])
    np.testing.assert_allclose(half, [T_975_OF_2 * spread / math.sqrt(3), 0], atol=1e-6)


def test_smoothing_leaves_a_constant_curve_as_it_is():
    constant = [curve(task=task, error=0.3, num_steps=50) for task in "abc"]
    mean, _ = mean_and_band(constant, width=5)
    np.testing.assert_allclose(mean, 0.3, rtol=1e-6)


def test_plots_are_pictures(tmp_path):
    merged = compare([run_of("leap", "r1"), run_of("leap", "a-name-so-long-" * 8)])
    single_task = evaluation([curve()], tasks=("a",))
    paths = [
        plot_evaluation(merged, tmp_path / "new" / "compare.png"),
        plot_evaluation(single_task, tmp_path / "single.png"),
        plot_meta_training([1, 2, 3], [3.0, 2.5, math.nan], [1.0, 0.9, 0.8], tmp_path / "m.png"),
    ]
    for path in paths:
        with Image.open(path) as picture:
            picture.load()
            assert picture.width > 600
            assert len(picture.convert("L").getcolors()) > 10
