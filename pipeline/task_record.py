"""What one outer step's tasks have to say: their scalars, gathered as segments arrive."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.aggregator import ShardUpdate
from pipeline.messages import Segment, TaskSpec


@dataclass(slots=True)
class TaskRecord:
    """Scalars of one attempt at one task, gathered as its segments arrive."""

    spec: TaskSpec  # the attempt
    loss_first: float = math.nan
    loss_last: float = math.nan
    loss_sum: float = 0.0
    error_sum: float = 0.0  # NaN where the task reports none
    path_length: float = 0.0
    num_steps: int = 0
    num_parts: int = 0  # of its outer gradient that have arrived
    finite: bool = True
    task: str = ""  # its name
    env_steps: int = 0  # of reinforcement learning
    return_sum: float = 0.0  # of `episode_return`, over the `num_returns` steps that have one
    num_returns: int = 0
    replayed: tuple[int, int] = (0, 0)  # of its inner and env steps, those of an earlier process
    newest: tuple[int, int] = (0, 0)  # inner and env steps of the segment that came last

    def add(self, segment: Segment) -> None:
        """Take in the next segment."""
        self.num_parts += bool(segment.pieces)
        self.finite = segment.finite
        self.task = segment.task
        before = self.num_steps, self.env_steps
        self.add_rows(segment.rows)
        self.newest = self.num_steps - before[0], self.env_steps - before[1]

    def add_rows(self, rows: pa.RecordBatch) -> None:
        """Take in the rows of the next segment; it may have none."""
        if not rows.num_rows:
            return
        losses = rows.column("loss").to_numpy(zero_copy_only=False)
        if not self.num_steps:
            self.loss_first = float(losses[0])
        self.loss_last = float(losses[-1])
        self.loss_sum += float(losses.sum(dtype=np.float64))
        errors = rows.column("error").to_numpy(zero_copy_only=False)
        self.error_sum += float(errors.sum(dtype=np.float64))
        self.path_length = float(rows.column("path_length")[-1].as_py())
        self.num_steps += len(losses)
        self.env_steps = rows.column("env_steps")[-1].as_py() or 0
        returns = rows.column("episode_return").drop_null()
        self.return_sum += float(returns.to_numpy().sum(dtype=np.float64))
        self.num_returns += len(returns)

    @property
    def taken(self) -> tuple[int, int]:
        """How many inner and env steps of it this process took; the others it found on disk."""
        return self.num_steps - self.replayed[0], self.env_steps - self.replayed[1]

    @property
    def mean_return(self) -> float:
        """Mean over its steps of the return of the episodes that ended in them; NaN of none."""
        return self.return_sum / self.num_returns if self.num_returns else math.nan


def outer_figures(
    records: Collection[TaskRecord], updates: Sequence[ShardUpdate]
) -> dict[str, float]:
    """Return an outer step's means over its finite tasks, and the norms of its update.

    NaN for what a kind of task does not have, such as the path of an episode.
    """
    good = [record for record in records if record.finite]
    return {
        "train/loss": _mean([r.loss_sum / r.num_steps for r in good]),
        "train/loss_first": _mean([r.loss_first for r in good]),
        "train/loss_last": _mean([r.loss_last for r in good]),
        "train/path_length": _mean([r.path_length for r in good]),
        "train/error": _mean([r.error_sum / r.num_steps for r in good]),
        "outer/grad_norm": math.sqrt(sum(update.grad_square for update in updates)),
        "outer/step_norm": math.sqrt(sum(update.step_square for update in updates)),
        "outer/params_norm": math.sqrt(sum(update.params_square for update in updates)),
    }


def returns_by_environment(records: Collection[TaskRecord]) -> dict[str, float]:
    """Return `rl/<environment>/return`: the mean over the finite tasks that saw an episode end.

    A task is called by its environment's name, and a number after " #" where others share it.
    """
    returns: dict[str, list[float]] = {}
    for record in records:
        if record.finite and record.num_returns:
            environment = record.task.partition(" #")[0]
            returns.setdefault(environment, []).append(record.mean_return)
    return {f"rl/{name}/return": _mean(values) for name, values in sorted(returns.items())}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
