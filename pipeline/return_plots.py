"""The plot of a meta-test in reinforcement learning: return against env steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def plot_returns(evaluation: Evaluation, path: Path, title: str = "") -> Path:
    """Draw the return of the episodes under way against env steps; return `path`.

    Returns of different games are no common scale: games have a panel each, with the mean and 95 %
    interval over repeats and seeds, the first MAX_PANELS of them. Tasks of one environment share a
    panel: mean and interval over tasks, whose repeats are averaged first. BadInputError for a name
    with an unknown suffix.
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
            _draw(axes, groups, evaluation.methods.index(method), method)
        finish_axes(axes, "env steps", "return of episodes that ended")
        axes.set_title(name, fontsize="medium")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    panels[0].legend(frameon=False, loc="best", fontsize="small")
    over = "repeats" if of_games else "tasks"
    named = title or f"Adapting to held-out tasks ({subject(evaluation.protocol)})"
    figure.suptitle(f"{named}\nmean and 95 % interval over {over}; smoothed")
    return save_figure(figure, path)


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


def _draw(axes: Axes, groups: Sequence[Sequence[TaskCurve]], index: int, label: str) -> None:
    """Draw the mean over groups, and its interval where there are several."""
    if not groups:
        return
    last = min(int(curve.env_steps[-1]) for curves in groups for curve in curves)
    env_steps = np.linspace(last / NUM_POINTS, last, NUM_POINTS)
    values = np.stack([return_curve(curves, env_steps) for curves in groups])
    points = [confidence_interval_95(column) for column in values.T]
    mean, half = (np.asarray(column) for column in zip(*points, strict=True))
    colour = COLOURS[index % len(COLOURS)]
    axes.plot(env_steps, mean, LINES[index % len(LINES)], color=colour, label=wrapped(label, 50))
    axes.fill_between(env_steps, mean - half, mean + half, color=colour, alpha=0.18)
