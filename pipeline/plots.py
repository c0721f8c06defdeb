"""Plots of a run, drawn without pyplot so that nothing is shared between two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from algorithms.scoring import confidence_interval_95
from pipeline.evaluation import Evaluation, TaskCurve, per_task
from pipeline.files import check_destination
from pipeline.plot_style import (
    COLOURS,
    LINES,
    MIN_SMOOTHED_STEPS,
    SMOOTHING,
    Array,
    finish_axes,
    picture_format,
    save_figure,
    smooth,
    wrapped,
)
from pipeline.protocol_words import subject
from pipeline.return_plots import plot_returns
from pipeline.task_kinds import ENVIRONMENT_KINDS

MAX_DOTS = 100  # tasks that are drawn one by one
LABEL_WIDTH = 24  # characters of a method's name beside its bar
# Metrics that the second panel can show, the first that there is: factor for display, label.
HELD_OUT = {"accuracy": (100, "held-out accuracy, %"), "loss": (1, "held-out loss")}


def check_plot(path: Path) -> None:
    """Raise BadInputError unless a plot can be written to `path`, in a folder that is there."""
    picture_format(path)
    check_destination(path, "plot")


def comparison_name(run_ids: Iterable[str]) -> str:
    """Return a file name for the plot of these runs, the same for no others."""
    digest = hashlib.sha256("\n".join(sorted(run_ids)).encode()).hexdigest()
    return f"compare-{digest[:12]}.png"


def plot_evaluation(evaluation: Evaluation, path: Path, title: str = "") -> Path:
    """Draw training error per step and the held-out figure of each method; return `path`.

    Of reinforcement learning the return against env steps: see `plot_returns`.

    The lines and bars are means over tasks, the bands and whiskers 95 % confidence intervals. A
    panel for which no method has anything is left out: error without learning curves, held-out
    figure without accuracy and loss. BadInputError for a name with an unknown suffix.
    """
    if evaluation.protocol.get("task.kind") in ENVIRONMENT_KINDS:
        return plot_returns(evaluation, path, title)
    summary = evaluation.summary()
    metric = next((m for m in HELD_OUT if any(m in row for row in summary.values())), None)
    with_curve = [method for method in evaluation.methods if "auc" in summary[method]]
    lines_of_label = max(wrapped(method, LABEL_WIDTH).count("\n") + 1 for method in summary)
    height = 1.6 + len(summary) * (0.2 + 0.2 * lines_of_label)
    figure = Figure(figsize=(10, max(4.5, height)), layout="constrained")
    ratios = [2] * bool(with_curve) + [1] * (metric is not None)
    panels = list(figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0])
    if with_curve:
        _draw_curves(panels.pop(0), evaluation, with_curve)
    if metric is not None:
        _draw_held_out(panels.pop(0), evaluation, metric)
    figure.suptitle(title or f"Adapting to held-out tasks ({subject(evaluation.protocol)})")
    return save_figure(figure, path)


def plot_meta_training(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    path: Path,
    measured: str = "training loss",
) -> Path:
    """Draw what is measured of meta-batches, their mean training loss, by outer step.

    Returns `path`. `curves` are (outer step, value) points by what they are the loss of, or by
    environment where returns are measured: at least one point each, at most as many curves as
    COLOURS.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    width = _window(max(map(len, curves.values())))
    for index, (label, points) in enumerate(curves.items()):
        steps, losses = zip(*points, strict=True)
        values = np.asarray(losses, np.float64)
        if width > 1:
            axes.plot(steps, values, color=COLOURS[index], alpha=0.3, lw=1)
        line = LINES[index % len(LINES)]
        axes.plot(steps, smooth(values, width), line, color=COLOURS[index], label=label)
    if width > 1:
        axes.plot([], [], color="grey", alpha=0.5, lw=1, label="not smoothed")
    finish_axes(axes, "outer step", f"{measured}\n(mean over meta-batch" + _said(width))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if min(value for points in curves.values() for _, value in points) >= 0:
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.suptitle("Meta-training")
    return save_figure(figure, path)


def mean_and_band(curves: Sequence[TaskCurve], width: int = 1) -> tuple[Array, Array]:
    """Return mean error and half-width of its 95 % interval over tasks at each step, both [K].

    Each task's curve (the mean of its repeats) is smoothed over `width` steps before.
    """
    tasks = [
        smooth(np.mean([curve.errors for curve in repeats], axis=0, dtype=np.float64), width)
        for repeats in per_task(curves).values()
    ]
    points = [confidence_interval_95(column) for column in np.stack(tasks, axis=1)]
    means, half_widths = zip(*points, strict=True)
    return np.asarray(means), np.asarray(half_widths)


def _draw_curves(axes: Axes, evaluation: Evaluation, methods: Sequence[str]) -> None:
    """Draw the training error of `methods`, smoothed, over the inner steps."""
    width = _window(max(len(curve.errors) for curve in evaluation.curves))
    for method in methods:
        index = evaluation.methods.index(method)
        mean, half = mean_and_band(evaluation.of_method(method), width)
        steps = np.arange(1, len(mean) + 1)
        colour, line = COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]
        axes.plot(steps, 100 * mean, line, color=colour, label=wrapped(method, 50))
        axes.fill_between(steps, 100 * (mean - half), 100 * (mean + half), color=colour, alpha=0.18)
    finish_axes(axes, "inner step", "training error, %\n(mean over tasks" + _said(width))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 100)
    axes.set_title(f"bands: {_interval(evaluation, methods)}", fontsize="small")
    axes.legend(frameon=False, loc="best", fontsize="small")


def _draw_held_out(axes: Axes, evaluation: Evaluation, metric: str) -> None:
    """Draw a bar for each method that has the metric, from the top down, and a dot for each task.

    The bars lie, so that long names have room beside them.
    """
    factor, label = HELD_OUT[metric]
    summary = evaluation.summary()
    methods = [method for method in evaluation.methods if metric in summary[method]]
    for place, method in enumerate(methods):
        figures = summary[method][metric]
        colour = COLOURS[evaluation.methods.index(method) % len(COLOURS)]
        mean, half = factor * figures["mean"], factor * figures["ci95"]
        tasks = per_task(evaluation.of_method(method)).values()
        values = [factor * np.mean([c.metrics[metric] for c in repeats]) for repeats in tasks]
        axes.barh(place, mean, 0.6, color=colour, alpha=0.25)
        if len(values) > MAX_DOTS:
            axes.plot(np.quantile(values, (0.05, 0.95)), (place, place), color=colour, lw=1)
        else:
            spread = place + np.linspace(-0.15, 0.15, len(values))
            axes.plot(values, spread, ".", color=colour, alpha=0.7, ms=5)
        axes.errorbar(mean, place, xerr=half, fmt="|", color=colour, capsize=6, lw=2, ms=14)
    protocol = evaluation.protocol
    num_ways = protocol.get("task.num_ways") or protocol.get("episodes.num_ways")
    if metric == "accuracy" and num_ways:
        axes.axvline(100 / num_ways, color="grey", ls=":", lw=1.5)
        axes.text(100 / num_ways, -0.5, f" chance: 1 of {num_ways}", va="center", fontsize="small")
    finish_axes(axes, label, "")
    axes.set_yticks(range(len(methods)), [wrapped(method, LABEL_WIDTH) for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.7)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", alpha=0.25)
    most = max(len(per_task(evaluation.of_method(method))) for method in methods)
    tasks_are = "thin lines: 5 to 95 % of the tasks" if most > MAX_DOTS else "dots: tasks"
    title = f"{tasks_are}; whiskers:\n{_interval(evaluation, methods)}"
    axes.set_title(title, loc="right", fontsize="small")  # so that its room is the names' too


def _interval(evaluation: Evaluation, methods: Sequence[str]) -> str:
    """Return what the intervals are over, or that there are none."""
    groups = [per_task(evaluation.of_method(method)) for method in methods]
    fewest, most = min(map(len, groups)), max(map(len, groups))
    if most == 1:
        return "none over a single task"
    several_seeds = len({curve.seed for curve in evaluation.curves}) > 1
    count = str(most) if fewest == most else f"{fewest} to {most}"
    return f"95 % intervals over {count} {'(task, seed) pairs' if several_seeds else 'tasks'}"


def _window(num_steps: int) -> int:
    return max(1, num_steps // SMOOTHING) if num_steps >= MIN_SMOOTHED_STEPS else 1


def _said(width: int) -> str:
    return f"; smoothed over {width} steps)" if width > 1 else ")"
