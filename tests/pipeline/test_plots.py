"""Plots: what they show, and the files they become."""

import math
import statistics
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipeline.comparison import compare
from pipeline.errors import BadInputError
from pipeline.evaluation import TaskCurve
from pipeline.plots import comparison_name, mean_and_band, plot_evaluation, plot_meta_training
from tests.pipeline.evaluations_for_tests import (
    T_975_OF_2,
    curve,
    evaluation,
    only_figures,
    run_of,
)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, each laid out as it was saved."""
    figures = []
    save = Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


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
    merged = compare([run_of("leap", "r1"), run_of("leap", "a-name-so-long-" * 8)]).evaluation
    single_task = evaluation([curve()], tasks=("a",))
    paths = [
        plot_evaluation(merged, tmp_path / "new" / "compare.png"),
        plot_evaluation(single_task, tmp_path / "single.PNG"),
        plot_meta_training(
            {
                "first inner step": [(1, 3.0), (2, 2.5), (3, math.nan)],
                "last inner step": [(1, 1.0), (2, 0.9), (3, 0.8)],
            },
            tmp_path / "m.png",
        ),
    ]
    for path in paths:
        with Image.open(path) as picture:
            picture.load()
            assert picture.width > 600
            assert len(picture.convert("L").getcolors()) > 10


@pytest.mark.parametrize(("suffix", "begins"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_suffix_names_the_format(suffix, begins, tmp_path):
    path = plot_evaluation(run_of("leap", "r1"), tmp_path / f"plot.{suffix}")
    assert path.read_bytes().startswith(begins)


@pytest.mark.parametrize("name", ["plot.jpg", "plot", "plot.png.txt"])
def test_other_suffixes_are_refused_and_nothing_is_written(name, tmp_path):
    with pytest.raises(BadInputError, match=r"\.png, \.pdf, \.svg"):
        plot_evaluation(run_of("leap", "r1"), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_plot_of_a_comparison_is_named_by_its_runs():
    assert comparison_name(["a", "b"]) == comparison_name(["b", "a"])
    names = {comparison_name(runs) for runs in (["a"], ["a", "b"], ["ab"], ["a", "c"])}
    assert len(names) == 4


def test_names_of_many_methods_do_not_overlap(drawn, tmp_path):
    runs = [
        run_of("leap", f"r{i}", learner={"outer.lr": i / 8, "meta.num_steps": 100 * i})
        for i in range(8)
    ]
    plot_evaluation(compare(runs).evaluation, tmp_path / "plot.png")
    (figure,) = drawn
    axes = figure.axes[1]
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert len(boxes) == 9
    by_height = sorted(boxes, key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 for low, high in pairwise(by_height))
    assert all(box.x0 >= 0 for box in boxes)


def test_evaluation_plot_says_what_its_intervals_and_chance_are(drawn, tmp_path):
    plot_evaluation(run_of("leap", "r1", task={"num_ways": 5}), tmp_path / "plot.png")
    (figure,) = drawn
    curves, bars = figure.axes
    assert curves.get_title() == "bands: 95 % intervals over 3 tasks"
    assert bars.get_title(loc="right") == "dots: tasks; whiskers:\n95 % intervals over 3 tasks"
    (note,) = bars.texts
    assert note.get_text().strip() == "chance: 1 of 5"
    assert [20, 20] in [list(line.get_xdata()) for line in bars.lines]
    assert all(float(tick).is_integer() for tick in curves.get_xticks())


def test_seeds_and_single_tasks_are_told(drawn, tmp_path):
    runs = [run_of("leap", "r1", 0), run_of("leap", "r2", 1), run_of("reptile", "r3", 0)]
    plot_evaluation(compare(runs).evaluation, tmp_path / "plot.png")
    plot_evaluation(evaluation([curve()], tasks=("a",)), tmp_path / "plot.png")
    titles = [figure.axes[0].get_title() for figure in drawn]
    assert titles[0] == "bands: 95 % intervals over 3 to 6 (task, seed) pairs"
    assert titles[1] == "bands: none over a single task"


@pytest.mark.parametrize(
    ("metrics", "labels"),
    [(("accuracy", "loss"), ["held-out accuracy, %"]), (("loss",), ["held-out loss"])],
)
def test_methods_without_learning_curves_get_one_panel(metrics, labels, drawn, tmp_path):
    plot_evaluation(only_figures(run_of("leap", "r1"), *metrics), tmp_path / "plot.png")
    (figure,) = drawn
    assert [axes.get_xlabel() for axes in figure.axes] == labels


def test_learning_curves_of_some_methods_alone_are_drawn(drawn, tmp_path):
    runs = [run_of("leap", "r1"), only_figures(run_of("reptile", "r2"), "accuracy")]
    plot_evaluation(compare(runs).evaluation, tmp_path / "plot.png")
    (figure,) = drawn
    curves, bars = figure.axes
    assert [text.get_text() for text in curves.get_legend().get_texts()] == ["leap", "scratch"]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["leap", "reptile", "scratch"]


@pytest.mark.parametrize(("num_steps", "explained"), [(3, []), (100, ["not smoothed"])])
def test_every_line_of_meta_training_is_explained(num_steps, explained, drawn, tmp_path):
    steps = range(1, num_steps + 1)
    levels = {"first inner step": 2.0, "last inner step": 1.0}
    curves = {label: [(step, level) for step in steps] for label, level in levels.items()}
    plot_meta_training(curves, tmp_path / "plot.png")
    (figure,) = drawn
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["first inner step", "last inner step", *explained]
    assert len(axes.lines) == (2 if num_steps == 3 else 5)
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
