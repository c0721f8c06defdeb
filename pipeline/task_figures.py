"""A meta-test task by task: what a mean over tasks of different scales, such as games, hides."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it imports torch, which a table can do without
    from pipeline.evaluation import Evaluation, TaskCurve


@dataclass(frozen=True, slots=True)
class TaskFigure:
    """A figure of one method on one task, over the repeats and seeds of its adaptations."""

    task: str
    method: str
    metric: str
    mean: float
    sd: float  # standard deviation (n - 1); NaN of a single adaptation
    adaptations: int


def task_figures(evaluation: Evaluation) -> list[TaskFigure]:
    """Return every figure of each method on each task: by task, in the order of the methods.

    NaN where an adaptation diverged. A task of several seeds is one, as a game is.
    """
    curves: dict[tuple[str, str], list[TaskCurve]] = defaultdict(list)
    order = {method: place for place, method in enumerate(evaluation.methods)}
    for method in evaluation.methods:
        for curve in evaluation.of_method(method):
            curves[curve.task, method].append(curve)
    return [
        TaskFigure(task, method, metric, math.fsum(found) / len(found), _sd(found), len(found))
        for task, method in sorted(curves, key=lambda key: (key[0], order[key[1]]))
        for metric, found in _values(curves[task, method], evaluation.target_return).items()
    ]


def judged_by(curves: Sequence[TaskCurve], target_return: float | None) -> float | None:
    """Return the target return by which one method's `curves` can be judged.

    None, too, where no episode ended in any of them: a return is known when its episode ends, so
    that nobody knows whether they reached it.
    """
    return target_return if any(np.isfinite(one.returns).any() for one in curves) else None


def _values(curves: Sequence[TaskCurve], target_return: float | None) -> dict[str, list[float]]:
    values: dict[str, list[float]] = defaultdict(list)
    target = judged_by(curves, target_return)
    for curve in curves:
        for metric, value in curve.figures(target).items():
            values[metric].append(value)
    return values


def _sd(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
