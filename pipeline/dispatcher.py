"""Runs a set of tasks to their ends over a backend: feeding, retrying, giving up."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.backend import Backend
from pipeline.config import Experiment
from pipeline.errors import RunFailedError, TaskFailedError
from pipeline.failure import POLICY, Action, Kind, decide, limit_of
from pipeline.interrupt import StopRequest
from pipeline.messages import Segment, TaskFailure, TaskSpec
from pipeline.run_meter import NoMeter, RunMeter

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
    stale: int = 0  # of the dropped, those that came too late
    train_s: float = 0.0  # wall time of the outer steps taken
    unmoved: int = 0  # outer steps all of whose tasks were dropped


class Dispatcher:
    """Keeps workers busy with the tasks of a meta-batch or a meta-test."""

    def __init__(
        self,
        backend: Backend,
        experiment: Experiment,
        counters: Counters,
        stop: StopRequest,
        resume: Callable[[TaskSpec], TaskSpec] = lambda spec: spec,
        meter: RunMeter | None = None,
    ) -> None:
        """Start with nothing to do; `resume` says where a task that is begun again goes on."""
        self._backend = backend
        self._experiment = experiment
        self._counters = counters
        self._stop = stop
        self._resume = resume
        self._meter = meter or NoMeter()
        self._again: deque[tuple[float, TaskSpec]] = deque()  # monotonic time from which on
        self.open_tasks = 0
        self.peak_in_flight = 0

    def run(self, specs: Iterable[TaskSpec]) -> Iterator[Segment]:
        """Yield every segment of every task, in the order of arrival, until all have ended.

        A spec is taken from `specs` when a worker has room for it. A task whose worker died is
        begun again under the next attempt, whose segments follow under that number; what the
        earlier attempt did counts up to where `resume` says. Raises RunFailedError when a task's
        own code raised or its attempts are used up, InterruptedRunError on a request to stop.
        """
        source, is_drawn = iter(specs), False
        while True:
            while self._backend.has_room():
                # What is begun again starts from where things stand now, not when it was lost.
                again = self._next_again()
                spec = self._resume(again) if again else next(source, None)
                if spec is None:
                    is_drawn = True
                    break
                self._backend.submit(spec)
                self.open_tasks += 1
            if is_drawn and not self.open_tasks and not self._again:
                return
            self.peak_in_flight = max(self.peak_in_flight, self.open_tasks)
            if self._again and not self.open_tasks:  # nothing else would wait for these
                time.sleep(min(POLL_S, max(0.0, self._again[0][0] - time.monotonic())))
            for event in self._backend.events(POLL_S):
                if isinstance(event, TaskFailure):
                    self.open_tasks -= 1
                    self.begin_again(event)
                    continue
                self.open_tasks -= event.final
                yield event
            self._stop.check()

    def give_up(self) -> None:
        """Forget all tasks in flight, with whatever they did since their last checkpoints."""
        self._backend.give_up()
        self._again.clear()
        self.open_tasks = 0

    def begin_again(self, failure: TaskFailure) -> None:
        """Have the task's next attempt run, before all others; raise if there is to be none."""
        if not failure.begun:
            self._again.appendleft((0.0, failure.spec))
            return
        spec, name, rule = failure.spec, failure.spec.title, POLICY[failure.kind]
        if failure.kind is Kind.TASK_RAISED:
            raise TaskFailedError(f"{name} raised {failure.reason}")
        decision = decide(failure.kind, spec.losses, self._experiment)
        if decision.action is Action.STOP:
            raise RunFailedError(
                f"{name} was lost {spec.losses + 1} times ({rule.limit} is "
                f"{limit_of(rule, self._experiment)}); the last: {failure.reason}"
            )
        self._counters.retries += 1
        self._meter.retry(failure.kind)
        wait = f" in {decision.wait_s:g} s" if decision.wait_s else ""
        logger.warning("%s: lost, begun again%s: %s", name, wait, failure.reason)
        due = time.monotonic() + decision.wait_s
        self._again.appendleft((due, spec.retry(is_counted=bool(rule.limit))))

    def _next_again(self) -> TaskSpec | None:
        """Return a task that is to be begun again now, if there is one."""
        now = time.monotonic()
        for place, (due, spec) in enumerate(self._again):
            if due <= now:
                del self._again[place]
                return spec
        return None
