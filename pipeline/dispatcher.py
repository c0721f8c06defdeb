"""Runs a set of tasks to their ends over a backend: feeding, retrying, giving up."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.backend import Backend
from pipeline.errors import RunFailedError, TaskFailedError
from pipeline.interrupt import StopRequest
from pipeline.messages import Segment, TaskFailure, TaskSpec

POLL_S = 0.5  # how long a request to stop may go unseen

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """What happened in the run so far; part of every checkpoint."""

    tasks: int = 0
    inner_steps: int = 0
    retries: int = 0
    dropped: int = 0
    bad_in_a_row: int = 0
    env_steps: int = 0


class Dispatcher:
    """Keeps workers busy with the tasks of a meta-batch or a meta-test."""

    def __init__(
        self, backend: Backend, max_retries: int, counters: Counters, stop: StopRequest
    ) -> None:
        self._backend = backend
        self._max_retries = max_retries
        self._counters = counters
        self._stop = stop
        self.peak_in_flight = 0

    def run(self, specs: Iterable[TaskSpec]) -> Iterator[Segment]:
        """Yield every segment of every task, in the order of arrival, until all have ended.

        A task whose worker died begins again under the next attempt, whose segments follow
        under that number; the earlier attempt's stand for nothing. Raises RunFailedError when
        a task's own code raised or its attempts are used up, InterruptedRunError on a request
        to stop.
        """
        queue, open_tasks = deque(specs), 0
        while queue or open_tasks:
            while queue and self._backend.has_room():
                self._backend.submit(queue.popleft())
                open_tasks += 1
            self.peak_in_flight = max(self.peak_in_flight, open_tasks)
            for event in self._backend.events(POLL_S):
                if isinstance(event, TaskFailure):
                    open_tasks -= 1
                    queue.appendleft(self.retry(event) if event.begun else event.spec)
                    continue
                open_tasks -= event.final
                yield event
            self._stop.check()

    def retry(self, failure: TaskFailure) -> TaskSpec:
        """Return the next attempt, counted and told of; raise if there is to be none."""
        spec = failure.spec
        name = f"task {spec.index} of {spec.purpose} step {spec.meta_step}"
        if not failure.worker_lost:
            raise TaskFailedError(f"{name} raised {failure.reason}")
        if spec.attempt >= self._max_retries:
            raise RunFailedError(
                f"{name} lost its worker {spec.attempt + 1} times (workers.max_retries is "
                f"{self._max_retries}); the last: {failure.reason}"
            )
        self._counters.retries += 1
        logger.warning("%s: worker lost, begun again: %s", name, failure.reason)
        return spec.retry()
