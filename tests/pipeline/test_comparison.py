"""Several runs' meta-tests beside each other."""

import math
import statistics
from dataclasses import replace

import pytest

from pipeline.comparison import compare
from pipeline.errors import BadInputError
from tests.pipeline.evaluations_for_tests import only_figures, run_of


def test_scratch_of_two_runs_is_kept_once():
    runs = [run_of("leap", "r1", error=0.2), run_of("reptile", "r2", error=0.4)]
    merged = compare(runs).evaluation
    assert merged.methods == ("leap", "reptile", "scratch")
    assert len(merged.of_method("scratch")) == 3
    assert merged.summary()["leap"]["auc"]["mean"] == pytest.approx(0.2)


def test_runs_that_differ_only_in_seed_are_one_method_over_task_seed_pairs():
    runs = [run_of("leap", f"r{seed}", seed, error=0.2 + seed / 10) for seed in (0, 1)]
    merged = compare(runs).evaluation
    row = merged.summary()["leap"]["auc"]
    values = [0.2] * 3 + [0.3] * 3
    assert merged.methods == ("leap", "scratch")
    assert (row["tasks"], row["seeds"]) == (3, 2)
    assert row["mean"] == pytest.approx(0.25)
    t_of_5 = 2.5705818366147395
    assert row["ci95"] == pytest.approx(t_of_5 * statistics.stdev(values) / math.sqrt(6))
    assert len(merged.of_method("scratch")) == 6


LABELS = {
    "another algorithm": (
        [("leap", {"outer.lr": 0.1}), ("reptile", {"outer.lr": 0.2})],
        ["leap", "reptile"],
    ),
    "a setting": (
        [("leap", {"outer.lr": lr, "meta.batch_size": 8}) for lr in (0.1, 0.5)],
        ["leap outer.lr=0.1", "leap outer.lr=0.5"],
    ),
    "two settings": (
        [
            ("leap", {"outer.lr": 0.1, "meta.num_steps": 3}),
            ("leap", {"outer.lr": 0.5, "meta.num_steps": 3}),
            ("leap", {"outer.lr": 0.5, "meta.num_steps": 9}),
        ],
        [
            "leap outer.lr=0.1 meta.num_steps=3",
            "leap outer.lr=0.5 meta.num_steps=3",
            "leap outer.lr=0.5 meta.num_steps=9",
        ],
    ),
    "an option": (
        [("leap", {"algorithm.options": o}) for o in ({}, {"norm": False}, {"loss": False})],
        ["leap", "leap norm=false", "leap loss=false"],
    ),
}


@pytest.mark.parametrize(("learners", "labels"), LABELS.values(), ids=list(LABELS))
def test_methods_go_by_what_differs(learners, labels):
    runs = [run_of(name, f"run-{i}", learner=one) for i, (name, one) in enumerate(learners)]
    assert compare(runs).evaluation.methods == (*labels, "scratch")


def test_seeds_are_pooled_under_each_setting():
    learners = {"low": {"outer.lr": 0.1}, "high": {"outer.lr": 0.5}}
    runs = [
        run_of("leap", f"{name}-{seed}", seed, learner=learner)
        for name, learner in learners.items()
        for seed in (0, 1)
    ]
    compared = compare(runs)
    assert list(compared.training) == ["leap outer.lr=0.1", "leap outer.lr=0.5", "scratch"]
    assert compared.training["leap outer.lr=0.5"].run_ids == ("high-0", "high-1")
    assert compared.training["scratch"].seeds == (0, 1)


def test_same_settings_and_seed_twice_are_two_rows():
    merged = compare([run_of("leap", "x-r1"), run_of("leap", "x-r2")]).evaluation
    assert merged.methods == ("leap (r1)", "leap (r2)", "scratch")
    merged = compare([run_of("leap", "a-r"), run_of("leap", "b-r")]).evaluation
    assert merged.methods == ("leap (a-r)", "leap (b-r)", "scratch")


def test_seed_tells_apart_what_a_repeated_run_keeps_from_being_pooled():
    runs = [run_of("leap", "r1", 0), run_of("leap", "r2", 0), run_of("leap", "r3", 1)]
    methods = compare(runs).evaluation.methods
    assert methods == ("leap seed=0 (r1)", "leap seed=0 (r2)", "leap seed=1", "scratch")


def learner(outer_steps=3, num_tasks=10):
    return {
        "meta.num_steps": outer_steps,
        "meta.batch_size": 8,
        "inner.num_steps": 30,
        "data.num_train_tasks": num_tasks,
    }


def test_budgets_are_counted_for_each_method():
    compared = compare(
        [run_of("leap", "r1", learner=learner(3)), run_of("reptile", "r2", learner=learner(5))]
    )
    steps = {name: (one.outer_steps, one.inner_steps) for name, one in compared.training.items()}
    assert steps == {"leap": (3, 720), "reptile": (5, 1200), "scratch": (None, None)}
    assert compared.differences() == [
        "Budgets differ: meta-trained for 3 outer and 720 inner steps (leap); "
        "5 outer and 1,200 inner steps (reptile)."
    ]


def test_other_differences_are_said():
    runs = [
        run_of("leap", "r1", 0, learner=learner()),
        run_of("leap", "r2", 1, learner=learner()),
        run_of("reptile", "r3", 0, learner=learner(num_tasks=5)),
    ]
    assert compare(runs).differences() == [
        "Meta-training tasks differ: trained on 10 (leap); 5 (reptile).",
        "Seeds differ, and with them the held-out tasks: tested under 0, 1 (leap); 0 (reptile).",
    ]


def test_nothing_is_said_of_what_does_not_differ():
    runs = [run_of(name, name, learner=learner()) for name in ("leap", "reptile")]
    assert compare(runs).differences() == []


def test_held_out_tasks_may_differ_between_seeds_only():
    compare([run_of("leap", "r1", 0), run_of("leap", "r2", 1, tasks=("x", "y", "z"))])
    with pytest.raises(BadInputError, match="test_tasks"):
        compare([run_of("leap", "r1", 0), run_of("reptile", "r2", 0, tasks=("x", "y", "z"))])


def test_other_protocol_is_refused_with_key_and_both_values():
    with pytest.raises(BadInputError, match=r"r1 and r2.*task\.batch_size is 20 .* and 10 in"):
        compare([run_of("leap", "r1"), run_of("reptile", "r2", task={"batch_size": 10})])


def test_other_data_under_the_same_name_is_refused():
    one, other = run_of("leap", "r1"), run_of("reptile", "r2")
    other = replace(other, protocol=other.protocol | {"data.digest": "4567"})
    with pytest.raises(BadInputError, match=r"data\.digest is '0123' .* and '4567'"):
        compare([one, other])


def test_meta_test_that_says_less_is_to_be_made_again():
    one, other = run_of("leap", "r1"), run_of("reptile", "r2")
    del other.protocol["data.digest"]
    for runs in ([one, other], [other, one]):
        with pytest.raises(BadInputError, match=r"r2.*data\.digest.*outerloop evaluate r2"):
            compare(runs)


def test_runs_without_learning_curves_are_compared_by_what_they_have():
    runs = [only_figures(run_of(name, name), "accuracy") for name in ("leap", "reptile")]
    summary = compare(runs).evaluation.summary()
    assert {method: set(row) for method, row in summary.items()} == {
        "leap": {"accuracy"},
        "reptile": {"accuracy"},
        "scratch": {"accuracy"},
    }
