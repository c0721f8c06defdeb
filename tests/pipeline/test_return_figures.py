"""Returns of a meta-test: env steps to a target, figures by task, their plot and their files."""

import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from pipeline.comparison import compare
from pipeline.config import build_experiment
from pipeline.errors import BadInputError
from pipeline.evaluation import METADATA, Evaluation
from pipeline.return_plots import plot_returns, two_deviations
from pipeline.task_figures import task_figures
from tests.pipeline.evaluations_for_tests import in_environments, run_of

T_975_OF_1 = 12.706204736  # Student's t, one degree of freedom


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn."""
    figures = []
    save = Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_summary_has_env_steps_to_the_target_and_the_share_that_reached_it():
    judged = in_environments("control", {"leap": 500.0, "scratch": 60.0}, target_return=250.0)
    summary = judged.summary()
    assert summary["leap"]["env_steps_to_target"]["mean"] == 80
    assert summary["leap"]["reached"]["mean"] == 1
    assert summary["scratch"]["env_steps_to_target"]["mean"] == 160
    assert summary["scratch"]["reached"]["mean"] == 0
    assert "reached" not in replace(judged, target_return=None).summary()["leap"]


def test_where_no_episode_ended_nothing_is_said_of_the_target(tmp_path):
    judged = in_environments("atari", {"leap": 500.0}, target_return=250.0)
    none = np.full(2, np.nan, np.float32)
    first, second = judged.curves
    one_ended = replace(judged, curves=(replace(first, returns=none), second))
    assert one_ended.summary()["leap"]["reached"]["mean"] == 0.5
    assert [f.task for f in task_figures(one_ended) if f.metric == "reached"] == ["b"]
    none_ended = replace(judged, curves=tuple(replace(c, returns=none) for c in judged.curves))
    assert set(none_ended.summary()["leap"]) == {"auc", "return"}
    none_ended.to_parquet(tmp_path)
    again = Evaluation.from_parquet(tmp_path)
    assert again.target_return == 250
    assert again.summary() == none_ended.summary()


def test_target_of_runs_is_kept_and_a_comparison_can_take_another(tmp_path):
    in_environments("control", {"leap": 500.0}, target_return=250.0).to_parquet(tmp_path)
    read = Evaluation.from_parquet(tmp_path)
    assert compare([read]).evaluation.summary()["leap"]["reached"]["mean"] == 1
    assert compare([read], 251.0).evaluation.summary()["leap"]["reached"]["mean"] == 0


def test_a_meta_test_from_before_there_were_targets_can_be_judged_by_one(tmp_path):
    in_environments("control", {"leap": 500.0}).to_parquet(tmp_path)
    path = tmp_path / "curves.parquet"
    table = pq.read_table(path)
    rest = json.loads(table.schema.metadata[METADATA])
    del rest["target_return"]
    pq.write_table(table.replace_schema_metadata({METADATA: json.dumps(rest).encode()}), path)
    merged = compare([Evaluation.from_parquet(tmp_path)], 100.0).evaluation
    assert merged.summary()["leap"]["env_steps_to_target"]["mean"] == 80


def test_runs_with_other_targets_have_none_together_and_a_line_says_so():
    runs = [
        in_environments("control", {"leap": 500.0}, seed=seed, target_return=target)
        for seed, target in enumerate((195.0, None))
    ]
    compared = compare(runs)
    assert compared.evaluation.target_return is None
    (line,) = [line for line in compared.differences() if "target" in line.lower()]
    assert line == "Target returns differ (195, none): --target-return X judges all by one."
    assert compare(runs, 195.0).evaluation.target_return == 195
    assert not any("arget" in line for line in compare(runs, 195.0).differences())


def test_targets_are_for_environments_and_finite():
    with pytest.raises(BadInputError, match=r"task\.kind=alphabets have no returns"):
        compare([run_of("leap", "r1")], 1.0)
    with pytest.raises(BadInputError, match="expected a finite number"):
        compare([in_environments("control", {"leap": 1.0})], math.nan)
    with pytest.raises(BadInputError, match=r"evaluation\.target_return.*have no returns"):
        build_experiment({"evaluation": {"target_return": 1.0}}, "test")
    with pytest.raises(BadInputError, match="expected a number or null, got 'high'"):
        build_experiment({"evaluation": {"target_return": "high"}}, "test")


def test_several_seeds_have_an_interval_over_their_means_too():
    runs = [in_environments("control", {"leap": 10.0 + 4 * s}, seed=s) for s in (0, 1)]
    row = compare(runs).evaluation.summary()["leap"]["return"]
    spread = statistics.stdev([10.5, 14.5]) / math.sqrt(2)
    assert row["ci95_seeds"] == pytest.approx(T_975_OF_1 * spread)
    assert row["ci95"] != row["ci95_seeds"]
    assert "ci95_seeds" not in runs[0].summary()["leap"]["return"]


def test_figures_by_task_are_over_repeats_and_seeds_and_written_beside_the_curves(tmp_path):
    runs = [in_environments("atari", {"leap": 10.0}, seed=s, repeats=2) for s in (0, 1)]
    figures = task_figures(compare(runs).evaluation)
    (of_b,) = [one for one in figures if (one.task, one.metric) == ("b", "return")]
    assert (of_b.mean, of_b.adaptations) == (16.0, 4)
    assert of_b.sd == pytest.approx(statistics.stdev([11, 21, 11, 21]))
    runs[0].to_parquet(tmp_path)
    rows = pq.read_table(tmp_path / "tasks.parquet").to_pylist()
    assert {(row["task"], row["metric"]) for row in rows} == {
        (task, metric) for task in "ab" for metric in ("auc", "return")
    }
    assert next(row for row in rows if row["metric"] == "return")["mean"] == 15.0


def test_band_of_games_is_two_standard_deviations():
    values = [1.0, 4.0, 7.0]
    mean, half = two_deviations(np.array(values))
    assert (mean, half) == (4.0, pytest.approx(2 * statistics.stdev(values)))
    assert math.isnan(two_deviations(np.array([1.0]))[1])


def test_games_have_a_panel_each_and_the_target_is_drawn(drawn, tmp_path):
    games = in_environments(
        "atari", {"leap": 10.0, "scratch": 1.0}, tasks=tuple("abcd"), repeats=2, target_return=7.0
    )
    plot_returns(games, tmp_path / "plot.png")
    (figure,) = drawn
    used = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title() for axes in used] == ["a", "b", "c", "d"]
    assert all(list(axes.lines[-1].get_ydata()) == [7, 7] for axes in used)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "leap", "scratch", "target: 7"
    ]  # fmt: skip
    assert "mean ± 2 standard deviations over repeats" in figure.get_suptitle()


def test_tasks_of_one_environment_share_a_panel_with_their_interval(drawn, tmp_path):
    runs = [in_environments("control", {"leap": 10.0}, seed=s) for s in (0, 1)]
    plot_returns(compare(runs).evaluation, tmp_path / "plot.png")
    (figure,) = drawn
    assert len([axes for axes in figure.axes if axes.lines]) == 1
    assert "95 % interval over (task, seed) pairs" in figure.get_suptitle()
