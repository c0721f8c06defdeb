"""One shard of the parameter server: exactly-once book-keeping and the outer step.

A plain class; the Ray shell around it (`pipeline.actors`) only forwards calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algorithms.outer import make_outer_optimizer, scheduled_lr
from pipeline.config_sections import OuterConfig
from pipeline.messages import TaskSpec

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(slots=True)
class Contribution:
    """What has arrived of one attempt at one task; sums of its segments, in their order."""

    attempt: int
    num_segments: int = 0
    sums: dict[int, Tensor] = field(default_factory=dict)  # offset in the shard → partial sum
    broken: bool = False


@dataclass(frozen=True, slots=True)
class ShardUpdate:
    """One shard's part of an outer step; squares are sums over the shard, in float64."""

    version: int
    grad_square: float
    step_square: float
    params_square: float


class AggregatorShard:
    """Folds gradient slices and takes the outer step on elements [offset, offset + size).

    At all times:
      - `version` is the number of outer steps taken, and only contributions to the next one
        (`meta_step == version`) are held;
      - of a task, only the newest attempt's partial sums are held; an older attempt's late
        segments are ignored, and so is a segment that was folded before;
      - tasks are summed in the order of their index, whatever the order of arrival, so the
        result is bitwise that of any other number of workers;
      - each element is averaged over the tasks that hold it.
    """

    def __init__(
        self,
        offset: int,
        params: Tensor,
        outer: OuterConfig,
        version: int = 0,
        num_steps: int = 0,
    ) -> None:
        """Start at `version` outer steps; `num_steps` is the run's length, for a schedule."""
        self.offset = offset
        self._outer = outer
        self._num_steps = num_steps
        self.params = params.clone()
        self.version = version
        self.optimizer = make_outer_optimizer(
            outer.optimizer,
            lr=outer.lr,
            momentum=outer.momentum,
            params=self.params,
            weight_decay=outer.weight_decay,
        )
        self._open: dict[int, Contribution] = {}
        self._last: ShardUpdate | None = None

    def check_version(self, version: int) -> None:
        """Raise ValueError unless `version` outer steps were taken, e.g. before a checkpoint."""
        if version != self.version:
            raise ValueError(f"expected outer step {version}, the aggregator is at {self.version}")

    def fold(self, spec: TaskSpec, number: int, slices: Sequence[tuple[int, Array]] | None) -> None:
        """Add segment `number` of an attempt; `slices` are (outer offset, values) pairs.

        `None` for slices says that they were lost on the way: the attempt cannot count.
        """
        if spec.meta_step != self.version:
            return
        held = self._open.get(spec.index)
        if held is None or spec.attempt > held.attempt:
            held = self._open[spec.index] = Contribution(spec.attempt)
        if spec.attempt < held.attempt or number < held.num_segments:
            return
        if slices is None or number > held.num_segments:
            held.broken = True
            return
        for offset, values in slices:
            start = offset - self.offset
            if start in held.sums:
                held.sums[start] += torch.from_numpy(values)
            else:
                held.sums[start] = torch.from_numpy(np.array(values))  # shared memory: copy
        held.num_segments += 1

    def missing(self, meta_step: int, accepted: Mapping[int, tuple[int, int]]) -> list[int]:
        """Return the tasks of `accepted` (index → attempt, segments) that are not wholly here."""
        if meta_step != self.version:
            return []  # committed already: the answer was lost, and `commit` repeats it
        return [index for index, want in accepted.items() if not self._holds(index, *want)]

    def commit(self, meta_step: int, accepted: Mapping[int, tuple[int, int]]) -> ShardUpdate:
        """Take the outer step with the accepted tasks; asked again, repeat the answer only.

        Raises ValueError when an accepted task is not wholly here.
        """
        if meta_step == self.version - 1 and self._last is not None:
            return self._last
        if meta_step != self.version or self.missing(meta_step, accepted):
            raise ValueError(f"outer step {meta_step} cannot be committed at {self.version}")
        before = self.params.clone()
        grad = self._average(sorted(accepted))
        if accepted:
            self.optimizer.set_lr(self._lr())
            self.optimizer.step(grad)
        self._open.clear()
        self.version += 1
        self._last = ShardUpdate(
            self.version, _square(grad), _square(self.params - before), _square(self.params)
        )
        return self._last

    def _lr(self) -> float:
        outer = self._outer
        return scheduled_lr(
            outer.schedule, outer.lr, self.version, self._num_steps, outer.halve_every
        )

    def _holds(self, index: int, attempt: int, num_segments: int) -> bool:
        held = self._open.get(index)
        return (
            held is not None
            and not held.broken
            and (held.attempt, held.num_segments) == (attempt, num_segments)
        )

    def _average(self, indices: Sequence[int]) -> Tensor:
        total = torch.zeros_like(self.params)
        count = torch.zeros_like(self.params)
        for index in indices:
            for start, values in self._open[index].sums.items():
                total[start : start + len(values)] += values
                count[start : start + len(values)] += 1
        return total.div_(count.clamp_(min=1))


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())
