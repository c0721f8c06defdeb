"""A meta-test task by task: what a mean over tasks of different scales, such as games, hides."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it imports torch, which a table can do without
    from pipeline.evaluation import Evaluation


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
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    order = {method: place for place, method in enumerate(evaluation.methods)}
    for method in evaluation.methods:
        for curve in evaluation.of_method(method):
            of_task = values.setdefault((curve.task, method), defaultdict(list))
            for metric, value in curve.figures(evaluation.target_return).items():
                of_task[metric].append(value)
    return [
        TaskFigure(task, method, metric, math.fsum(found) / len(found), _sd(found), len(found))
        for task, method in sorted(values, key=lambda key: (key[0], order[key[1]]))
        for metric, found in values[task, method].items()
    ]


def _sd(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
