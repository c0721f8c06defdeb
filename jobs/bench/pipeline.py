"""What distribution costs: the Ray pipeline against bare inner loops, one pinned to a core each.

Both run the same tasks with the same network and meta-learner. The bare loops have no Ray, no
aggregator, no records; the pipeline has all of them, tracking included. Repeats alternate
between the two, in one process lifetime; figures are medians.
"""

from __future__ import annotations

import os
import statistics
import time
from contextlib import ExitStack
from typing import Any

import ray
import torch

from algorithms import TRAJECTORY_LEARNERS
from algorithms.inner_loop import InnerLoop, InnerOptimizer
from algorithms.parameters import capture_buffers, restore_buffers
from jobs import catalog
from jobs.bench.local_ray import local_ray
from jobs.bench.measured_process import MeasuredProcess, Take, steps_per_second
from jobs.bench.trainers import training
from pipeline.cluster import RayBackend
from pipeline.config import Experiment
from pipeline.errors import BadInputError
from pipeline.memory import keep_freed_memory
from pipeline.messages import Segment
from pipeline.network import build_network
from pipeline.server import Start
from pipeline.tasks import task_family
from pipeline.worker import PRECISIONS


def run(repeats: int = 5, outer_steps: int = 1, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Measure; needs two cores.

    Args:
        repeats: Measurements of each kind, of which medians are taken.
        outer_steps: Outer steps of one measurement; 20 tasks of 100 inner steps by default.
        overrides: `key=value` changes to the experiment `leap-omniglot`.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise BadInputError("bench pipeline: two cores are needed; there is one")
    experiment = _experiment(overrides)
    steps = outer_steps * experiment.meta.batch_size * experiment.inner.num_steps
    with ExitStack() as stack:
        bare = [
            stack.enter_context(MeasuredProcess(1, _bare_loop, experiment, core)) for core in cores
        ]
        stack.enter_context(local_ray(3))  # for both pipelines: one of them works at a time
        two = stack.enter_context(_Pipeline(experiment, 2))
        one = stack.enter_context(_Pipeline(experiment, 1))
        for pipeline in (one, two):
            pipeline.rate(1)  # warm-up
        steps_per_second(bare, experiment.inner.num_steps)
        rates: dict[str, list[float]] = {"bare": [], "two": [], "one": []}
        for _ in range(repeats):
            rates["bare"].append(steps_per_second(bare, steps // 2))
            rates["two"].append(two.rate(outer_steps))
            rates["one"].append(one.rate(outer_steps))
    median = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "bare_steps_per_s": median["bare"],
        "one_worker_steps_per_s": median["one"],
        "two_workers_steps_per_s": median["two"],
        # Ratios within a repeat, so that a slow minute of the machine weighs on both sides.
        "efficiency": _median_ratio(rates["two"], rates["bare"]),
        "scaling_1_to_2": _median_ratio(rates["two"], rates["one"]),
        "driver_bytes_per_inner_step": two.driver_bytes / two.driver_steps,
        "gradient_bytes_per_segment": two.gradient_bytes,
        "repeats": repeats,
        "inner_steps_per_measurement": steps,
        "data": experiment.data.name,
    }


class _Pipeline:
    """The pipeline with `count` workers, warm, with all its books."""

    def __init__(self, experiment: Experiment, count: int) -> None:
        workers = experiment.workers.model_copy(update={"count": count})
        self._experiment = experiment.model_copy(update={"workers": workers})
        self._stack = ExitStack()
        self._steps = experiment.meta.batch_size * experiment.inner.num_steps
        self.driver_bytes = self.driver_steps = 0
        self.gradient_bytes = 4 * build_network(experiment)[1].size

    def __enter__(self) -> _Pipeline:
        backend = _CountingBackend(self._experiment, self)
        self._trainer, _ = self._stack.enter_context(training(self._experiment, backend))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rate(self, outer_steps: int) -> float:
        """Return inner steps per second over `outer_steps` outer steps."""
        start = time.perf_counter()
        for _ in range(outer_steps):
            self._trainer.outer_step()
        return outer_steps * self._steps / (time.perf_counter() - start)


class _CountingBackend(RayBackend):
    """Counts the bytes of what workers send to the driver."""

    def __init__(self, experiment: Experiment, totals: _Pipeline) -> None:
        super().__init__(experiment, Start())
        self._totals = totals

    def fold(self, segment: Segment) -> None:
        """Count, once for every kind of segment: serialising takes time of its own."""
        if not self._totals.driver_steps:
            self._totals.driver_bytes = len(ray.cloudpickle.dumps(segment))  # type: ignore[no-untyped-call]
            self._totals.driver_steps = segment.rows.num_rows
        super().fold(segment)


def _bare_loop(experiment: Experiment, core: int) -> Take:
    """Return a loop over tasks from the same start, without anything around it."""
    os.sched_setaffinity(0, {core})
    keep_freed_memory()
    family = task_family(experiment, torch.device("cpu"))
    model, vector = build_network(experiment)
    buffers, start = capture_buffers(model), vector.values.clone()
    learner = TRAJECTORY_LEARNERS[experiment.algorithm.name](**experiment.algorithm.options)
    inner = experiment.inner
    task_id = core

    def take(num_steps: int) -> None:
        nonlocal task_id
        for _ in range(num_steps // inner.num_steps):
            restore_buffers(model, buffers)
            vector.load(start)
            task_id = (task_id + 1) % family.num_tasks("train")
            loop = InnerLoop(
                model,
                vector,
                family.make("train", task_id, task_id),
                InnerOptimizer(inner.optimizer, lr=inner.lr, momentum=inner.momentum),
                fold=learner.start(vector.values),
                precision=PRECISIONS[inner.precision],
            )
            loop.run(inner.num_steps)
            loop.finish()

    return take


def _experiment(overrides: tuple[str, ...]) -> Experiment:
    try:
        experiment = catalog.load("leap-omniglot", list(overrides))
        task_family(experiment, torch.device("cpu"))
    except BadInputError:
        if any(text.startswith("data.") for text in overrides):
            raise
        glyphs = ["data.name=glyphs", "data.num_train_tasks=10", "data.num_test_tasks=4"]
        experiment = catalog.load("leap-omniglot", [*glyphs, *overrides])
    return experiment


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
