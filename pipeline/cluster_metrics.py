"""A run's metrics among those that Ray exports for Prometheus, on the driver's node.

Ray puts `ray_` before each name, and collects them every ten seconds or so. It forgets a gauge that
is not set again for a while, so all are, as long as the run goes on; counters of runs that have
ended stay until their node does.
"""

from __future__ import annotations

import time

from ray.util.metrics import Counter, Gauge

from pipeline.failure import Kind

RECORD_EVERY_S = 0.5  # a record takes some microseconds, and segments come by the hundred


class ClusterMetrics:
    """The metrics of one run: as a RunMeter of its Trainer's, and of what its backend sees."""

    def __init__(self, run_id: str, experiment: str) -> None:
        tags = {"run": run_id, "experiment": experiment}
        keys = tuple(tags)

        def counter(name: str, about: str, *more: str) -> Counter:
            made = Counter(f"outerloop_{name}_total", about, (*keys, *more))
            made.set_default_tags(tags)
            return made

        def gauge(name: str, about: str) -> Gauge:
            made = Gauge(f"outerloop_{name}", about, keys)
            made.set_default_tags(tags)
            return made

        self._inner_steps = counter("inner_steps", "Inner steps taken (or episodes), tests too.")
        self._env_steps = counter("env_steps", "Actions taken in environments, tests too.")
        self._outer_steps = counter("outer_steps", "Outer steps taken.")
        self._retries = counter("retries", "Attempts begun again, by what failed.", "kind")
        self._dropped = counter("dropped_tasks", "Tasks left out.")
        self._in_flight = gauge("tasks_in_flight", "Tasks handed out to workers.")
        self._staleness = gauge("staleness", "Outer steps since the oldest task of one began.")
        self._workers = gauge("workers", "Workers that stand.")
        self._steps = (0, 0)  # inner and env steps that are not recorded yet
        self._stale = 0  # outer steps
        self._next_record = 0.0  # monotonic time

    def segment(self, inner_steps: int, env_steps: int) -> None:
        """Keep its steps in mind until `record` counts them."""
        self._steps = (self._steps[0] + inner_steps, self._steps[1] + env_steps)

    def retry(self, kind: Kind) -> None:
        """Count it under the kind's name."""
        self._retries.inc(tags={"kind": kind.name.lower()})

    def dropped(self, num_tasks: int) -> None:
        """Count them."""
        if num_tasks:
            self._dropped.inc(num_tasks)

    def outer_step(self, staleness: int) -> None:
        """Count it."""
        self._outer_steps.inc()
        self._stale = staleness

    def is_due(self) -> bool:
        """Whether it is time for the next `record`."""
        return time.monotonic() >= self._next_record

    def record(self, num_workers: int, tasks_in_flight: int) -> None:
        """Record how many workers stand, the tasks that they have, and all the rest."""
        self._next_record = time.monotonic() + RECORD_EVERY_S
        self._workers.set(num_workers)
        self._in_flight.set(tasks_in_flight)
        self._staleness.set(self._stale)
        for counter, steps in zip((self._inner_steps, self._env_steps), self._steps, strict=True):
            if steps:  # Ray's counters take nothing else
                counter.inc(steps)
        self._steps = (0, 0)
