"""The table of a meta-test, as it looks on a terminal of 80 columns."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from jobs.tables import evaluation_table
from pipeline.comparison import compare
from pipeline.config import build_experiment
from pipeline.evaluation import Evaluation, TaskCurve, protocol_of

TASKS = ("a", "b", "c")


def run_of(method, seed=0):
    """A run's meta-test beside scratch, three tasks of four steps each."""
    generator = np.random.default_rng(seed)
    curves = []
    for name in dict.fromkeys((method, "scratch")):
        for task in TASKS:
            errors = generator.random(4, np.float32)
            metrics = {"accuracy": generator.random(), "loss": generator.random()}
            curves.append(TaskCurve(name, task, 0, errors, errors, metrics))
    experiment = build_experiment({"seed": seed, "evaluation": {"num_steps": 4}}, "test")
    return Evaluation(tuple(curves), protocol_of(experiment, TASKS), method, f"run-{seed}")


def drawn(evaluation):
    console = Console(file=io.StringIO(), width=80)
    console.print(evaluation_table(evaluation))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def below(lines):
    """The caption: what follows the table's lower edge."""
    edge = next(index for index, line in enumerate(lines) if line.startswith("└"))
    return lines[edge + 1 :]


def only(evaluation, method, task):
    kept = [c for c in evaluation.curves if (c.method, c.task) == (method, task)]
    return replace(evaluation, curves=tuple(kept))


@pytest.mark.parametrize(
    "evaluation",
    [run_of("leap"), only(run_of("leap"), "leap", "a"), compare([run_of("leap")])],
    ids=["a run", "one method on one task", "a comparison of one run"],
)
def test_title_and_caption_keep_their_lines(evaluation):
    lines = drawn(evaluation)
    assert lines[0].startswith("Meta-test: ")
    assert lines[0].endswith(", 4 inner steps")
    assert below(lines) == [
        "AUC: mean training error over the steps.",
        "±: 95 % interval over tasks. *: the best.",
    ]


def test_caption_says_that_seeds_of_one_task_count_as_independent():
    lines = drawn(compare([run_of("leap", seed=0), run_of("leap", seed=1), run_of("reptile")]))
    assert below(lines) == [
        "AUC: mean training error over the steps.",
        "±: 95 % interval over (task, seed) pairs as if independent,",
        "though a task under two seeds is still the same task. *: the best.",
    ]
    assert sum("3 (2 seeds)" in line for line in lines) == 2  # leap and scratch


def test_divergence_is_named_and_never_the_best():
    whole = run_of("leap")
    curves = [
        replace(curve, metrics=curve.metrics | {"loss": math.nan})
        if curve.method == "leap"
        else curve
        for curve in whole.curves
    ]
    (row,) = [line for line in drawn(replace(whole, curves=tuple(curves))) if "│ leap" in line]
    assert "diverged" in row
    assert " 0.0 ± 0.0 " in row
