"""A meta-test's work, and what comes of it: adaptations to held-out tasks and their curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pyarrow as pa

from pipeline.errors import TaskFailedError
from pipeline.evaluation import TaskCurve
from pipeline.messages import Segment, Split, TaskSpec


def adaptations(
    methods: Sequence[str], num_tasks: int, repeats: int, split: Split, version: int
) -> list[TaskSpec]:
    """Return a spec for each method, task and repeat, in this order.

    `version` is that of the outer parameters; tasks are numbers of the split's.
    """
    work = product(methods, range(num_tasks), range(repeats))
    return [
        TaskSpec(
            meta_step=version,
            index=index,
            task_id=task_id,
            split=split,
            version=version,
            purpose="evaluate",
            method=method,
            repeat=repeat,
        )
        for index, (method, task_id, repeat) in enumerate(work)
    ]


def curves_of(
    adapted: Sequence[Segment], rows_of: Callable[[TaskSpec], pa.Table]
) -> list[TaskCurve]:
    """Return the curve of each adaptation, given its last segment and where all its rows are.

    Rows are held of one adaptation at a time.

    Where a task's environment failed, its adaptations by all methods are left out: all are to be
    judged on the same. Raises TaskFailedError if that leaves none.
    """
    failures = {_place(last.spec): last.failure for last in adapted if last.failure}
    curves = [
        _curve(last, rows_of(last.spec)) for last in adapted if _place(last.spec) not in failures
    ]
    if failures and not curves:
        reason = next(iter(failures.values()))
        raise TaskFailedError(f"the meta-test has no task left: {reason}")
    return curves


def _place(spec: TaskSpec) -> tuple[int, int]:
    return spec.task_id, spec.repeat


def _curve(last: Segment, rows: pa.Table) -> TaskCurve:
    losses, errors, returns = (
        rows.column(name).to_numpy().astype(np.float32)
        for name in ("loss", "error", "episode_return")
    )
    env_steps = rows.column("env_steps").drop_null().to_numpy()
    return TaskCurve(
        method=last.spec.method,
        task=last.task,
        repeat=last.spec.repeat,
        losses=losses,
        errors=errors,
        metrics=last.metrics,
        returns=returns[: len(env_steps)],  # none but where there are environments
        env_steps=env_steps,
    )
