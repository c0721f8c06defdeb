"""What one outer step's tasks have to say: their scalars, gathered as segments arrive."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.aggregator import ShardUpdate
from pipeline.messages import Segment


@dataclass(slots=True)
class TaskRecord:
    """Scalars of one attempt at one task, gathered as its segments arrive."""

    attempt: int
    loss_first: float = math.nan
    loss_last: float = math.nan
    loss_sum: float = 0.0
    error_sum: float = 0.0  # NaN where the task reports none
    path_length: float = 0.0
    num_steps: int = 0
    num_segments: int = 0
    finite: bool = True

    def add(self, segment: Segment) -> None:
        """Take in the next segment's rows."""
        losses = segment.rows.column("loss").to_numpy(zero_copy_only=False)
        if not self.num_steps:
            self.loss_first = float(losses[0])
        self.loss_last = float(losses[-1])
        self.loss_sum += float(losses.sum(dtype=np.float64))
        errors = segment.rows.column("error").to_numpy(zero_copy_only=False)
        self.error_sum += float(errors.sum(dtype=np.float64))
        self.path_length = float(segment.rows.column("path_length")[-1].as_py())
        self.num_steps += len(losses)
        self.num_segments += 1
        self.finite = segment.finite


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


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
