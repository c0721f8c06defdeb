"""Which tasks are handed out when, and which of them make an outer step.

Sync: the meta-batch of an outer step is handed out at its beginning, and all of it is waited for.
Async: tasks are handed out without end, each with the newest parameters, and every
`meta.apply_every` of them that have ended make an outer step, whichever they are.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, Protocol

from pipeline.config import Experiment
from pipeline.messages import TaskKey, TaskSpec
from pipeline.tasks import sample_meta_batch

logger = logging.getLogger(__name__)

MAX_MOVES = 10_000  # a task that is staler is no staler than that


class Schedule(Protocol):
    """At all times it knows which tasks were handed out and have not been part of a commit."""

    @property
    def num_per_step(self) -> int:
        """How many ended tasks make an outer step."""

    def planned(self) -> list[TaskSpec]:
        """Return the tasks of the next outer step, where they are known beforehand."""

    def specs(self, until: int) -> Iterator[TaskSpec]:
        """Yield what is to be handed out next, on the way to `until` outer steps."""

    def current(self, spec: TaskSpec) -> TaskSpec:
        """Return `spec`, which has not begun, as it is to be run now."""

    def staleness(self, spec: TaskSpec) -> int:
        """Return how many times the parameters have moved since those that `spec` began from."""

    def weight(self, staleness: int) -> float:
        """Return how much a task counts whose parameters are so stale; 0: dropped."""

    def close(self, ended: Collection[TaskKey], moved: bool) -> None:
        """Take note of an outer step, its tasks, and whether it moved the parameters."""

    def oldest_open(self, ended: Collection[TaskKey]) -> int:
        """Return the meta_step before which none is under way once `ended` are committed."""

    def is_open(self, key: TaskKey) -> bool:
        """Whether a task may still be part of an outer step."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it, as JSON."""


class SyncSchedule:
    """A meta-batch after the other; its specs are a function of the outer step alone."""

    def __init__(self, experiment: Experiment, version: int) -> None:
        self._experiment = experiment
        self._version = version
        self._handed_out = version  # meta-batches
        self.num_per_step = len(sample_meta_batch(experiment, version))

    def planned(self) -> list[TaskSpec]:
        """Return the meta-batch."""
        step = self._version
        task_ids = enumerate(sample_meta_batch(self._experiment, step))
        return [TaskSpec(step, index, task_id, "train", step) for index, task_id in task_ids]

    def specs(self, until: int) -> Iterator[TaskSpec]:
        """Yield the meta-batch of the outer step, once."""
        if self._handed_out <= self._version:
            self._handed_out += 1
            yield from self.planned()

    def current(self, spec: TaskSpec) -> TaskSpec:
        """Return it as it is: the version has not changed."""
        return spec

    def staleness(self, spec: TaskSpec) -> int:
        """Return 0."""
        return 0

    def weight(self, staleness: int) -> float:
        """Return 1: nothing is ever stale."""
        return 1.0

    def close(self, ended: Collection[TaskKey], moved: bool) -> None:
        """Go on to the next meta-batch."""
        self._version += 1

    def oldest_open(self, ended: Collection[TaskKey]) -> int:
        """Return the next outer step: of this one nothing is left."""
        return self._version + 1

    def is_open(self, key: TaskKey) -> bool:
        """Whether its outer step is to come."""
        return key[0] >= self._version

    def state(self) -> dict[str, Any]:
        """Return nothing: the outer step says it all."""
        return {}


class AsyncSchedule:
    """Tasks in a fixed order, numbered through the run; outer steps as they end.

    Asynchronous local SGD with bounded staleness: Liu et al. (2024), arXiv:2401.09135. A task's
    number is its index; its meta_step is that of the meta-batch from which it was drawn, in which
    no task comes twice before every one has come once.
    """

    def __init__(self, experiment: Experiment, version: int, state: dict[str, Any]) -> None:
        self._experiment = experiment
        self._version = version
        self._batch = len(sample_meta_batch(experiment, 0))
        self.num_per_step = experiment.meta.apply_every or self._batch
        self._next = int(state.get("next", version * self.num_per_step))
        self._open = {int(number) for number in state.get("open", [])}
        self._returning = sorted(self._open)  # handed out before the run was resumed
        # Versions from which an outer step moved the parameters. One whose tasks were all dropped
        # makes no other task stale, or a run with many tasks under way would drop all of them.
        self._moves = deque(map(int, state.get("moves", [])), maxlen=MAX_MOVES)

    def planned(self) -> list[TaskSpec]:
        """Return nothing: whichever end first are the next outer step's."""
        return []

    def specs(self, until: int) -> Iterator[TaskSpec]:
        """Yield tasks, as many as `until` outer steps take, each at the newest version."""
        while self._returning:
            yield self._spec(self._returning.pop(0))
        while self._next < until * self.num_per_step:
            number = self._next
            self._next += 1
            self._open.add(number)
            yield self._spec(number)

    def current(self, spec: TaskSpec) -> TaskSpec:
        """Return it at the newest version."""
        return replace(spec, version=self._version)

    def staleness(self, spec: TaskSpec) -> int:
        """Return the number of moves since the task's version."""
        return sum(version >= spec.version for version in self._moves)

    def weight(self, staleness: int) -> float:
        """Return 1 up to `meta.max_staleness`, beyond it 0 or ever less."""
        late = staleness - self._experiment.meta.max_staleness
        if late <= 0:
            return 1.0
        return 1 / (1 + late) if self._experiment.meta.stale == "downweight" else 0.0

    def close(self, ended: Collection[TaskKey], moved: bool) -> None:
        """Strike them off."""
        self._open -= {index for _, index in ended}
        if moved:
            self._moves.append(self._version)
        self._version += 1

    def oldest_open(self, ended: Collection[TaskKey]) -> int:
        """Return the meta_step of the oldest task that is left, or else of the next."""
        left = self._open - {index for _, index in ended}
        return min(left | {self._next}) // self._batch

    def is_open(self, key: TaskKey) -> bool:
        """Whether it was handed out and not yet part of a commit."""
        return key[1] in self._open

    def state(self) -> dict[str, Any]:
        """Return the next number, and those that are under way."""
        return {"next": self._next, "open": sorted(self._open), "moves": list(self._moves)}

    def _spec(self, number: int) -> TaskSpec:
        meta_step, place = divmod(number, self._batch)
        task_id = sample_meta_batch(self._experiment, meta_step)[place]
        return TaskSpec(meta_step, number, task_id, "train", self._version)


def make_schedule(experiment: Experiment, version: int, state: dict[str, Any]) -> Schedule:
    """Return the schedule that `meta.mode` names, at `version`, as a checkpoint's `state` says."""
    if experiment.meta.mode == "async":
        schedule = AsyncSchedule(experiment, version, state)
        workers, bound = experiment.workers, experiment.meta.max_staleness
        # How many workers `auto` comes to is known later, and changes.
        count = 0 if workers.count == "auto" else workers.count
        staleness = count * workers.queue_depth / schedule.num_per_step
        if staleness > bound + 1:
            logger.warning(
                "about %.0f outer steps pass while a task runs (workers.count x "
                "workers.queue_depth / meta.apply_every), more than meta.max_staleness=%d: many "
                "tasks will be too stale",
                *(staleness, bound),
            )
        return schedule
    return SyncSchedule(experiment, version)
