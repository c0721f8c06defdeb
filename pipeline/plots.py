"""Plots of a run, drawn without pyplot so that nothing is shared between two of them."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from algorithms.scoring import confidence_interval_95
from pipeline.evaluation import Evaluation, TaskCurve, per_task
from pipeline.files import write_atomic

# Okabe and Ito's palette, told apart with any kind of colour vision; yellow is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")  # so that methods differ in grey as well
SMOOTHING = 20  # the window is this fraction of the curve
MIN_SMOOTHED_STEPS = 40
DOTS_PER_INCH = 130

Array = npt.NDArray[np.float64]


def plot_evaluation(evaluation: Evaluation, path: Path, title: str = "") -> Path:
    """Draw training error per step and held-out accuracy for each method; return `path`.

    The lines are means over tasks, the bands and bars 95 % confidence intervals.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    curves, accuracy = figure.subplots(1, 2, width_ratios=[2, 1])
    _draw_curves(curves, evaluation)
    _draw_accuracy(accuracy, evaluation)
    figure.suptitle(title or f"Adapting to held-out tasks ({evaluation.protocol['data.name']})")
    return _save(figure, path)


def plot_meta_training(
    steps: Sequence[int], losses_first: Sequence[float], losses_last: Sequence[float], path: Path
) -> Path:
    """Draw the meta-batch's mean training loss at the first and last inner step; return `path`."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (label, losses) in enumerate(
        (("first inner step", losses_first), ("last inner step", losses_last))
    ):
        values = np.asarray(losses, np.float64)
        width = _window(len(values))
        axes.plot(steps, values, color=COLOURS[index], alpha=0.3 if width > 1 else 1, lw=1)
        axes.plot(steps, _smooth(values, width), LINES[index], color=COLOURS[index], label=label)
    _finish(axes, "outer step", "training loss\n(mean over meta-batch" + _said(_window(len(steps))))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.suptitle("Meta-training")
    return _save(figure, path)


def mean_and_band(curves: Sequence[TaskCurve], width: int = 1) -> tuple[Array, Array]:
    """Return mean error and half-width of its 95 % interval over tasks at each step, both [K].

    Each task's curve (the mean of its repeats) is smoothed over `width` steps before.
    """
    tasks = [
        _smooth(np.mean([curve.errors for curve in repeats], axis=0, dtype=np.float64), width)
        for repeats in per_task(curves).values()
    ]
    points = [confidence_interval_95(column) for column in np.stack(tasks, axis=1)]
    means, half_widths = zip(*points, strict=True)
    return np.asarray(means), np.asarray(half_widths)


def _draw_curves(axes: Axes, evaluation: Evaluation) -> None:
    width = _window(max(len(curve.errors) for curve in evaluation.curves))
    for index, method in enumerate(evaluation.methods):
        mean, half = mean_and_band(evaluation.of_method(method), width)
        steps = np.arange(1, len(mean) + 1)
        colour, line = COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]
        axes.plot(steps, 100 * mean, line, color=colour, label=_wrapped(method))
        axes.fill_between(steps, 100 * (mean - half), 100 * (mean + half), color=colour, alpha=0.18)
    _finish(axes, "inner step", "training error, %\n(mean over tasks" + _said(width))
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, loc="best")


def _draw_accuracy(axes: Axes, evaluation: Evaluation) -> None:
    summary = evaluation.summary()
    methods = [method for method in evaluation.methods if "accuracy" in summary[method]]
    for place, method in enumerate(methods):
        figures = summary[method]["accuracy"]
        colour = COLOURS[evaluation.methods.index(method) % len(COLOURS)]
        mean, half = 100 * figures["mean"], 100 * figures["ci95"]
        tasks = per_task(evaluation.of_method(method)).values()
        values = [100 * np.mean([c.metrics["accuracy"] for c in repeats]) for repeats in tasks]
        spread = place + np.linspace(-0.15, 0.15, len(values))
        axes.bar(place, mean, 0.6, color=colour, alpha=0.25)
        axes.plot(spread, values, ".", color=colour, alpha=0.7, ms=5)
        axes.errorbar(place, mean, half, fmt="_", color=colour, capsize=6, lw=2, ms=14)
    axes.set_xticks(
        range(len(methods)), [_wrapped(method, 14) for method in methods], rotation=30, ha="right"
    )
    axes.set_ylim(bottom=0)
    _finish(axes, "", "held-out accuracy, %\n(bars: mean, dots: tasks)")


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)


def _window(num_steps: int) -> int:
    return max(1, num_steps // SMOOTHING) if num_steps >= MIN_SMOOTHED_STEPS else 1


def _said(width: int) -> str:
    return f"; smoothed over {width} steps)" if width > 1 else ")"


def _smooth(values: Array, width: int) -> Array:
    """Return the running mean over up to `width` steps; at the ends over those there are."""
    if width == 1:
        return values
    ones = np.ones(width)
    counts = np.convolve(np.ones_like(values), ones, "same")
    smoothed: Array = np.convolve(values, ones, "same") / counts
    return smoothed


def _wrapped(method: str, width: int = 34) -> str:
    """Return the name on lines of at most `width` characters, three at most."""
    return "\n".join(textwrap.wrap(method, width, max_lines=3, placeholder="…"))


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return path
