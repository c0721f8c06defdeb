"""The adaptations of a meta-test as runs of their own in MLflow, nested below the run's.

There each held-out task has its curve over inner steps, to be put beside those of other methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.evaluation import Evaluation, TaskCurve
from pipeline.files import sha256_json

MAX_POINTS = 500  # of a curve: every step of a short one, evenly spaced ones of a long one


def nested_runs(evaluation: Evaluation, most: int) -> list[dict[str, Any]]:
    """Return what `pipeline.mlflow_run` makes nested runs of: `most` of them, of the first tasks.

    Each has `name`, `params`, `points`, (key, step, value) with inner steps from 0, and the
    `sha256` of these: two tests that come to the same are one.
    """
    tasks = list(dict.fromkeys((curve.task, curve.repeat) for curve in evaluation.curves))
    num_methods = max(len(evaluation.methods), 1)
    shown = set(tasks[: most // num_methods])
    return [
        _run_of(curve.judged(), evaluation)
        for curve in evaluation.curves
        if (curve.task, curve.repeat) in shown
    ]


def _run_of(curve: TaskCurve, evaluation: Evaluation) -> dict[str, Any]:
    params = {
        "task": curve.task,
        "method": curve.method,
        "repeat": curve.repeat,
        "split": evaluation.split,
        "outer_step": evaluation.outer_step,
    }
    name = f"{curve.method}: {curve.task}" + f" ({curve.repeat + 1})" * (curve.repeat > 0)
    run = {
        "name": name,
        "params": {key: str(value) for key, value in params.items()},
        "points": list(_points(curve, evaluation.target_return)),
    }
    return {**run, "sha256": sha256_json(run)}


def _points(curve: TaskCurve, target_return: float | None) -> Iterator[tuple[str, int, float]]:
    """Yield the curve, thinned out if it is long, then what it comes to, at its last step."""
    last = 0
    for key, values in (("loss", curve.losses), ("error", curve.errors), ("return", curve.returns)):
        if not values.size:
            continue
        last = values.size - 1
        for step in np.unique(np.linspace(0, last, MAX_POINTS).astype(int)).tolist():
            if math.isfinite(values[step]):  # a return is not, where no episode ended
                yield f"inner/{key}", step, float(values[step])
    for key, figure in curve.figures(target_return).items():
        if math.isfinite(figure):
            yield f"test/{key}", last, float(figure)
