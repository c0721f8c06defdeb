"""Tells whoever watches, and the tracker, how tasks under way stand."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from pipeline.live import LiveTasks
from pipeline.live_points import LivePoints
from pipeline.messages import Segment, TaskSpec
from pipeline.progress import Progress
from pipeline.system_metrics import SystemMetrics

SHOWN_AFTER_S = 3.0
TOLD_EVERY_S = 0.5


class LiveReport:
    """Hears of every segment as it arrives.

    Args:
        num_steps: Gives how many inner steps the work of a spec has.
        progress: Is told of tasks that have run for `shown_after_s`, as they go on.
        points: Logs them; may be replaced, None logs nothing.
        system: Logs how busy the machine is.
        shown_after_s: Tasks that end sooner are not shown: lines would come and go.
        told_every_s: `progress` is told at most so often.
    """

    def __init__(
        self,
        num_steps: Callable[[TaskSpec], int],
        progress: Progress,
        points: LivePoints | None,
        system: SystemMetrics | None = None,
        shown_after_s: float = SHOWN_AFTER_S,
        told_every_s: float = TOLD_EVERY_S,
    ) -> None:
        self.points = points
        self._system = system
        self._num_steps = num_steps
        self._progress = progress
        self._shown_after_s = shown_after_s
        self._told_every_s = told_every_s
        self._tasks = LiveTasks({}, time.monotonic())
        self._title = ""
        self._next_telling = 0.0
        self._shows_tasks = False
        self._goes_on = False  # whether tasks of before stay open

    def begin(self, title: str, specs: Collection[TaskSpec], num_tasks: int = 0) -> None:
        """A meta-batch or a meta-test of `specs` begins, called `title`.

        Without specs it is whichever `num_tasks` end next, some of which may be under way.
        """
        self._title = title
        if specs or not self._goes_on:
            planned = {spec: self._num_steps(spec) for spec in specs}
            self._tasks = LiveTasks(planned, time.monotonic())
        self._goes_on = not specs
        if self._goes_on:
            self._tasks.wait_for(num_tasks)
        if self._shows_tasks:
            self._tell(time.monotonic())

    def take(self, segment: Segment) -> None:
        """Take in a segment that has just arrived."""
        spec, now = segment.spec, time.monotonic()
        if self._system is not None:
            self._system.take(now)
        task = self._tasks.take(segment, self._num_steps(spec), now)
        if task is not None and self.points is not None:
            self.points.take(task, spec.meta_step, now)
        if now >= self._next_telling or (segment.final and self._shows_tasks):
            self._next_telling = now + self._told_every_s
            self._tell(now)

    def _tell(self, now: float) -> None:
        """Tell of long tasks; of their end too, or their lines would stay."""
        batch = self._tasks.batch(self._title, self._shown_after_s, now)
        if batch.tasks or self._shows_tasks:
            self._progress.tasks(batch)
        self._shows_tasks = bool(batch.tasks)
