"""The plot of a meta-test in reinforcement learning: return against env steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from algorithms.scoring import confidence_interval_95
from pipeline.evaluation import Evaluation, TaskCurve, per_task
from pipeline.plot_style import (
    COLOURS,
    LINES,
    SMOOTHING,
    Array,
    finish_axes,
    save_figure,
    smooth,
    wrapped,
)
from pipeline.protocol_words import subject

NUM_POINTS = 200  # of a drawn curve
MAX_PANELS = 12
PANELS_A_ROW = 3
MAX_LEGEND_COLUMNS = 4


def plot_returns(evaluation: Evaluation, path: Path, title: str = "") -> Path:
    """Draw the return of the episodes that ended last against env steps; return `path`.

    Returns of different games are no common scale: games have a panel each, the first MAX_PANELS
    of them, with the mean over repeats and seeds ± 2 standard deviations, as in figure 4 of
    Flennerhag et al. (2019), arXiv:1812.01054. Tasks of one environment share a panel: mean and
    95 % interval over tasks, whose repeats are averaged first. A target return is a dotted line.
    BadInputError for a name with an unknown suffix.
    """
    names = [subject(evaluation.protocol)]
    of_games = evaluation.protocol["task.kind"] == "atari"
    if of_games:
        names = sorted({curve.task for curve in evaluation.curves})[:MAX_PANELS]
    num_columns = min(len(names), PANELS_A_ROW)
    num_rows = -(-len(names) // PANELS_A_ROW)
    size = (max(7, 4.5 * num_columns), 1 + 3.7 * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        for method in evaluation.methods:
            curves = evaluation.of_method(method)
            groups = list(per_task(curves).values())
            if of_games:
                groups = [[curve] for curve in curves if curve.task == name]
            spread = two_deviations if of_games else confidence_interval_95
            _draw(axes, groups, evaluation.methods.index(method), method, spread)
        _mark(axes, evaluation.target_return)
        is_leftmost = names.index(name) % num_columns == 0
        finish_axes(axes, "env steps", "return of episodes that ended" if is_leftmost else "")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(name, fontsize="medium")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(len(labels), MAX_LEGEND_COLUMNS)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    named = title or f"Adapting to held-out tasks ({subject(evaluation.protocol)})"
    figure.suptitle(f"{named}\n{_spread_words(evaluation, of_games)}; smoothed")
    return save_figure(figure, path)


def two_deviations(values: Array) -> tuple[float, float]:
    """Return the mean of `values` [n] and two standard deviations (n - 1); NaN of a single one."""
    if values.size == 1:
        return float(values[0]), math.nan
    return float(values.mean()), 2 * float(values.std(ddof=1))


def _spread_words(evaluation: Evaluation, of_games: bool) -> str:
    seeds = len({curve.seed for curve in evaluation.curves})
    if of_games:
        over = f"repeats under {seeds} seeds" if seeds > 1 else "repeats"
        return f"mean ± 2 standard deviations over {over}"
    over = "(task, seed) pairs" if seeds > 1 else "tasks"
    return f"mean and 95 % interval over {over}"


def _mark(axes: Axes, target_return: float | None) -> None:
    if target_return is not None:
        label = f"target: {target_return:g}"
        axes.axhline(target_return, color="black", linestyle=":", linewidth=1, label=label)


def return_curve(curves: Sequence[TaskCurve], env_steps: Array) -> Array:
    """Return the mean return of the adaptations `curves` at `env_steps` [M]: [M].

    Each is smoothed; NaN for one that diverged.
    """
    sampled = []
    for curve in curves:
        known = curve.return_curve()
        returns = smooth(known, max(1, len(known) // SMOOTHING))
        sampled.append(np.interp(env_steps, curve.env_steps, returns))
    mean: Array = np.mean(sampled, axis=0)
    return mean


def _draw(
    axes: Axes,
    groups: Sequence[Sequence[TaskCurve]],
    index: int,
    label: str,
    spread: Callable[[Array], tuple[float, float]],
) -> None:
    """Draw the mean over groups, and a band of their `spread` where there are several."""
    if not groups:
        return
    last = min(int(curve.env_steps[-1]) for curves in groups for curve in curves)
    env_steps = np.linspace(last / NUM_POINTS, last, NUM_POINTS)
    values = np.stack([return_curve(curves, env_steps) for curves in groups])
    points = [spread(column) for column in values.T]
    mean, half = (np.asarray(column) for column in zip(*points, strict=True))
    colour = COLOURS[index % len(COLOURS)]
    axes.plot(env_steps, mean, LINES[index % len(LINES)], color=colour, label=wrapped(label, 50))
    axes.fill_between(env_steps, mean - half, mean + half, color=colour, alpha=0.18)
