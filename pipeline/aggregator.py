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
from pipeline.messages import TaskKey, TaskSpec

SQUARED_AT_ONCE = 1 << 15

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(slots=True)
class Contribution:
    """What has arrived of one attempt at one task; sums of its parts, in their order."""

    attempt: int
    num_parts: int = 0
    sums: dict[int, Tensor] = field(default_factory=dict)  # offset in the shard → partial sum
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """A task that is to count in an outer step: which of its attempts, and how much."""

    attempt: int
    num_parts: int  # of its outer gradient
    weight: float = 1.0  # below 1 for one that is too stale


@dataclass(frozen=True, slots=True)
class Commit:
    """An outer step to be taken from the version `step`."""

    step: int
    accepted: Mapping[TaskKey, Accepted]
    oldest_open: int  # meta_step before which no task is under way any more
    dropped: frozenset[TaskKey] = frozenset()  # tasks that ended and are not to count


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
      - `version` is the number of outer steps taken;
      - a task's contribution is held until a commit takes or passes it, and is ignored from then
        on: a task counts once or not at all;
      - of a task, only the newest attempt's partial sums are held; an older attempt's late
        parts are ignored, and so is a part that was folded before;
      - tasks are summed in the order of their keys, whatever the order of arrival, so the
        result is bitwise that of any other number of workers;
      - each element is averaged over the tasks that hold it, down-weighted ones counting as whole
        ones there: a stale gradient moves less.
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
            delay=outer.delay,
            activation=outer.activation,
        )
        # Kept from one outer step to the next: memory that is asked for anew costs as much again.
        self._grad = torch.empty_like(self.params)
        self._before = torch.empty_like(self.params)
        self._open: dict[TaskKey, Contribution] = {}
        self._oldest_open = 0
        self._counted: set[TaskKey] = set()  # of those from `_oldest_open` on

    def check_version(self, version: int) -> None:
        """Raise ValueError unless `version` outer steps were taken, e.g. before a checkpoint."""
        if version != self.version:
            raise ValueError(f"expected outer step {version}, the aggregator is at {self.version}")

    def fold(self, spec: TaskSpec, part: int, slices: Sequence[tuple[int, Array]] | None) -> None:
        """Add part number `part` of an attempt; `slices` are (outer offset, values) pairs.

        `None` for slices says that they were lost on the way: the attempt cannot count.
        """
        if spec.meta_step < self._oldest_open or spec.key in self._counted:
            return
        held = self._open.get(spec.key)
        if held is None or spec.attempt > held.attempt:
            held = self._open[spec.key] = Contribution(spec.attempt)
        if spec.attempt < held.attempt or part < held.num_parts:
            return
        if slices is None or part > held.num_parts:
            held.broken = True
            return
        for offset, values in slices:
            start = offset - self.offset
            if start in held.sums:
                held.sums[start] += torch.from_numpy(values)
            else:
                held.sums[start] = torch.from_numpy(np.array(values))  # shared memory: copy
        held.num_parts += 1

    def missing(self, commit: Commit) -> list[TaskKey]:
        """Return the accepted tasks that are not wholly here."""
        return [key for key, want in commit.accepted.items() if not self._holds(key, want)]

    def commit(self, commit: Commit) -> ShardUpdate:
        """Take the outer step with the accepted tasks.

        Raises ValueError when an accepted task is not wholly here, or at another step.
        """
        if commit.step != self.version or self.missing(commit):
            raise ValueError(f"outer step {commit.step} cannot be committed at {self.version}")
        before = self._before.copy_(self.params)
        grad = self._average(commit.accepted)
        if commit.accepted:
            self.optimizer.set_lr(self._lr())
            self.optimizer.step(grad)
        self._close(commit)
        self.version += 1
        return ShardUpdate(
            self.version, _square(grad), _square(self.params, before), _square(self.params)
        )

    def _close(self, commit: Commit) -> None:
        """Forget the tasks that have counted or were dropped, and those before `oldest_open`."""
        self._oldest_open = commit.oldest_open
        self._counted |= commit.accepted.keys() | commit.dropped
        self._counted = {key for key in self._counted if key[0] >= commit.oldest_open}
        for key in list(self._open):
            if key[0] < commit.oldest_open or key in self._counted:
                del self._open[key]

    def _lr(self) -> float:
        outer = self._outer
        return scheduled_lr(
            outer.schedule, outer.lr, self.version, self._num_steps, outer.halve_every
        )

    def _holds(self, key: TaskKey, want: Accepted) -> bool:
        held = self._open.get(key)
        return (
            held is not None
            and not held.broken
            and (held.attempt, held.num_parts) == (want.attempt, want.num_parts)
        )

    def _average(self, accepted: Mapping[TaskKey, Accepted]) -> Tensor:
        total = self._grad.zero_()
        for key, task in sorted(accepted.items()):
            for start, values in self._open[key].sums.items():
                total[start : start + len(values)].add_(values, alpha=task.weight)
        return total.div_(self._counts(accepted))

    def _counts(self, accepted: Mapping[TaskKey, Accepted]) -> Tensor | int:
        """Return how many of the tasks hold each element, at least 1; one number if all do."""
        held = [self._open[key].sums for key in accepted]
        if all(len(sums.get(0, ())) == len(self.params) for sums in held):
            return max(1, len(held))
        counts = torch.zeros_like(self.params)
        for sums in held:
            for start, values in sums.items():
                counts[start : start + len(values)] += 1
        return counts.clamp_(min=1)


def _square(values: Tensor, less: Tensor | None = None) -> float:
    """Return the sum of squares of `values`, or of `values` minus `less`, in float64.

    In parts that stay within a core's cache.
    """
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(values), SQUARED_AT_ONCE):
        part = values[start : start + SQUARED_AT_ONCE]
        if less is not None:
            part = part - less[start : start + SQUARED_AT_ONCE]
        wide = part.double()
        total += torch.dot(wide, wide)
    return float(total)
