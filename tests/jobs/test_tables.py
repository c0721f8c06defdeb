"""The table of a meta-test, as it looks on a terminal of 80 columns."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from jobs.tables import evaluation_table, rows_table, training_table
from pipeline.comparison import compare
from pipeline.config import build_experiment
from pipeline.evaluation import Evaluation, TaskCurve
from pipeline.protocols import protocol_of
from tests.pipeline.evaluations_for_tests import in_environments, only_figures

TASKS = ("a", "b", "c")


def run_of(method, seed=0, **learner):
    """A run's meta-test beside scratch, three tasks of four steps each."""
    generator = np.random.default_rng(seed)
    curves = []
    for name in dict.fromkeys((method, "scratch")):
        for task in TASKS:
            errors = generator.random(4, np.float32)
            metrics = {"accuracy": generator.random(), "loss": generator.random()}
            curves.append(TaskCurve(name, task, 0, errors, errors, metrics))
    experiment = build_experiment({"seed": seed, "evaluation": {"num_steps": 4}}, "test")
    protocol = protocol_of(experiment, TASKS, "0123")
    return Evaluation(tuple(curves), protocol, method, f"run-{seed}", learner)


def drawn(evaluation):
    return printed(evaluation_table(evaluation))


def printed(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def below(lines):
    """The caption: what follows the table's lower edge."""
    edge = next(index for index, line in enumerate(lines) if line.startswith("└"))
    return lines[edge + 1 :]


def only(evaluation, method, task):
    kept = [c for c in evaluation.curves if (c.method, c.task) == (method, task)]
    return replace(evaluation, curves=tuple(kept))


AREA = "AUC: area under the error curve, its mean over the steps."
BEST = "↓: lower is better. *: the best."
INTERVAL = "±: 95 % interval over tasks."


@pytest.mark.parametrize(
    "evaluation",
    [run_of("leap"), only(run_of("leap"), "leap", "a"), compare([run_of("leap")]).evaluation],
    ids=["a run", "one method on one task", "a comparison of one run"],
)
def test_title_and_caption_keep_their_lines(evaluation):
    lines = drawn(evaluation)
    assert lines[0].startswith("Meta-test: ")
    assert lines[0].endswith(", 4 inner steps")
    assert below(lines) == [AREA, INTERVAL, BEST]


def test_each_row_counts_what_its_interval_is_over():
    runs = [run_of("leap", seed=0), run_of("leap", seed=1), run_of("reptile")]
    lines = drawn(compare(runs).evaluation)
    assert any(line.endswith("pairs ┃") for line in lines)
    counts = {line.split()[1]: line.split()[-2] for line in lines if line.startswith("│")}
    assert counts == {"leap": "6", "reptile": "3", "scratch": "6"}
    assert any(line.endswith("tasks ┃") for line in drawn(run_of("leap")))


def test_caption_says_that_seeds_of_one_task_count_as_independent():
    runs = [run_of("leap", seed=0), run_of("leap", seed=1), run_of("reptile")]
    assert below(drawn(compare(runs).evaluation)) == [
        AREA,
        "±: 95 % interval over (task, seed) pairs as if independent,",
        "though a task under two seeds is still the same task.",
        BEST,
    ]


def test_metrics_that_no_method_has_get_no_column():
    evaluation = only_figures(run_of("leap"), "accuracy")
    lines = drawn(evaluation)
    assert "accuracy, % ↑" in lines[2]
    assert "AUC" not in " ".join(lines)
    assert "loss" not in " ".join(lines)
    assert below(lines) == [INTERVAL, BEST]


def test_a_method_without_a_metric_has_a_dash():
    whole = run_of("leap")
    bare = only_figures(whole, "accuracy").of_method("scratch")
    lines = drawn(replace(whole, curves=(*whole.of_method("leap"), *bare)))
    (row,) = [line for line in lines if "│ scratch" in line]
    assert row.count(" - ") == 2


LONG = {"outer.lr": 0.12345678, "meta.num_steps": 1000000, "algorithm.options": {"loss": False}}


def test_long_names_never_cut_a_number_at_80_columns():
    runs = [run_of("leap", seed=0, **LONG), run_of("leap", seed=0)]
    big = [
        replace(c, metrics={"accuracy": 1.0 * (c.task == "a"), "loss": 12345.678})
        for c in runs[0].curves
    ]
    compared = compare([replace(runs[0], curves=tuple(big)), runs[1]])
    lines = drawn(compared.evaluation)
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    assert any(" 33.3 ± 143.4 " in line and " 12,345.678 ± 0.000 " in line for line in lines)


def test_training_table_gives_budget_and_seeds_of_each_method():
    budget = {"meta.num_steps": 1000, "meta.batch_size": 20, "inner.num_steps": 100}
    runs = [run_of("leap", seed, **budget) for seed in (0, 1)]
    lines = printed(training_table(compare(runs)))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert rows == [
        ["leap", "1,000", "2,000,000", "-", "0, 1"],
        ["scratch", "-", "-", "-", "0, 1"],
    ]


PATH = "/a/folder/that/lies/rather/deep/and/has/a/long/name/of/its/own"


def test_rows_break_no_word_where_the_terminal_has_room():
    rows = [("omniglot", "some words that can go on more lines than one", PATH)]
    lines = printed(rows_table("Data", ("name", "what", "where"), rows), 100)
    assert any("│ omniglot │" in line and f"│ {PATH} │" in line for line in lines)
    assert {len(line) for line in lines[1:]} == {100}


def test_rows_are_listed_where_a_path_does_not_fit_beside_the_rest():
    rows = [("omniglot", "some words", PATH, "no"), ("glyphs", "", "embedded", "yes")]
    assert printed(rows_table("Data", ("name", "what", "where", "there"), rows)) == [
        "Data",
        "omniglot",
        "  what: some words",
        f"  where: {PATH}",
        "  there: no",
        "glyphs",
        "  where: embedded · there: yes",
    ]


def test_path_longer_than_the_terminal_loses_no_character():
    path = 2 * PATH
    lines = printed(rows_table("Data", ("name", "where"), [("omniglot", path)]))
    assert "".join(line.strip() for line in lines[2:]) == f"where: {path}".replace(" ", "")


def test_a_title_is_no_markup():
    assert printed(rows_table("Runs in /a[/b]", ("run",), [(PATH,)]))[0] == "Runs in /a[/b]"
    assert printed(rows_table("Runs in /a[/b]", ("run",), [(PATH,)]), 20)[0] == "Runs in /a[/b]"


def test_columns_of_figures_stand_to_the_right():
    lines = printed(rows_table("Bench", ("what", "value"), [("steps", "1,200.5"), ("x", "-")]))
    assert "│ 1,200.5 │" in lines[4]
    assert "│       - │" in lines[5]


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


def test_more_return_is_better_and_the_caption_says_what_it_depends_on():
    table = drawn(in_environments("control", {"leap": 200.0, "scratch": 50.0}))
    text = " ".join(" ".join(table).split())
    assert "Meta-test: CartPole-v1, 160 env steps" in text
    assert "AUC ↑" in text
    assert "100.0 ± 0.0 *" in text
    assert "200.5 ± 6.4 *" in text
    assert "its mean over env steps" in text
    assert "↑: higher is better" in text
    games = " ".join(" ".join(drawn(in_environments("atari", {"leap": 9.0}))).split())
    assert "sticky actions 0.25" in games
    assert "84x84 grey, 4 frames stacked" in games
