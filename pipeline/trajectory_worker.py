"""Inner loops: trains on a task and streams its trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import torch

from algorithms.inner_loop import InnerLoop
from pipeline.aggregator import Array
from pipeline.config import Experiment
from pipeline.errors import EnvironmentFailedError
from pipeline.learners import inner_optimizer, trajectory_learner
from pipeline.messages import Segment, TaskSpec
from pipeline.seeding import derive_seed
from pipeline.task_kinds import ENVIRONMENT_KINDS
from pipeline.task_run import TaskRun
from pipeline.tasks import task_family
from pipeline.worker import Worker

T = TypeVar("T")


class InTime(Protocol):
    """Does a part of a task; EnvironmentFailedError if an environment hangs in it."""

    def __call__(self, function: Callable[[], T]) -> T:
        """Return what `function` returns."""


class TrajectoryWorker(Worker):
    """Runs inner loops, which a meta-learner folds into outer gradients."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.family = task_family(experiment, self.device)
        self.learner = trajectory_learner(experiment)

    def run(self, spec: TaskSpec, params: Sequence[Array]) -> Iterator[Segment]:
        """Train on the task from `params` and yield its segments in order.

        A task whose environment fails or hangs ends there, in a segment that says so.
        """
        with self._time_limit() as in_time:
            run = self._attempt(spec, params)
            segments = run.segments()
            try:
                while (segment := in_time(partial(next, segments, None))) is not None:
                    yield segment
            except EnvironmentFailedError as error:
                yield run.failed(str(error))

    def _attempt(self, spec: TaskSpec, params: Sequence[Array]) -> TaskRun:
        return TaskRun(
            spec,
            self.family.task_name(spec.split, spec.task_id),
            partial(self.begin, spec, params),
            self.family.num_steps(spec),
            self.experiment.inner,
            partial(self._pieces, spec),
            renew=self.experiment.environments.restart_at_checkpoints,
        )

    @contextmanager
    def _time_limit(self) -> Iterator[InTime]:
        """Give what does a part of a task, and gives it up where an environment hangs in it."""
        timeout_s = self.experiment.environments.timeout_s
        if self.experiment.task.kind not in ENVIRONMENT_KINDS or not timeout_s:
            yield _at_once
            return
        from pipeline.environments import TimedThread  # slow to import, and wanted here alone

        thread = TimedThread(timeout_s)
        try:
            thread.run(partial(torch.set_num_threads, self.experiment.workers.threads))
            yield thread.run
        finally:
            thread.end()
            if thread.is_abandoned:  # what hangs may hold the model till the process ends
                self._build_model()

    def begin(self, spec: TaskSpec, params: Sequence[Array]) -> InnerLoop:
        """Return the inner loop on the task from `params`, before its first step."""
        self._load(spec, params)
        train = spec.purpose == "train"
        num_shared = self.vector.size if self.layout.num_heads else self.layout.body
        return InnerLoop(
            self.model,
            self.vector,
            self.family.make(spec.split, spec.task_id, self._task_seed(spec)),
            inner_optimizer(self.experiment, self.family.num_steps(spec)),
            fold=self.learner.start(self.vector.values[:num_shared]) if train else None,
            precision=self.precision,
            num_shared=num_shared,
        )

    def _task_seed(self, spec: TaskSpec) -> int:
        if spec.purpose == "train":
            return derive_seed(self.experiment.seed, "task", spec.meta_step, spec.index)
        # The same minibatches for every method and at every version.
        return derive_seed(self.experiment.seed, "evaluate", spec.task_id, spec.repeat)


def _at_once(function: Callable[[], T]) -> T:
    return function()
