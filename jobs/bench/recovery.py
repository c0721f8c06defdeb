"""What failures cost: from a worker's death until its task runs again, and what checkpoints take.

A worker of a running meta-batch is killed (SIGKILL) again and again; the clock stops when the first
segment of the lost task's next attempt reaches the driver, so it includes that segment's inner
steps, at `segment_s` each.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs import catalog
from jobs.bench.trainers import asked_to_stop, check_workers_here, training
from jobs.bench.words import overridden
from pipeline.cluster import RayBackend
from pipeline.config import Experiment
from pipeline.errors import BadInputError
from pipeline.interrupt import StopRequest
from pipeline.messages import Segment, TaskSpec
from pipeline.server import Start
from pipeline.trainer import Trainer

WORDS = (
    "data.name=glyphs",
    "data.num_train_tasks=10",
    "data.num_test_tasks=4",
    "meta.num_steps=1000000",
    "inner.segment_steps=20",
    "workers.max_retries=1000",
)
EVERY_INNER_STEPS = 1000  # as the experiments with long tasks have it
NUM_STATES = 5


def run(
    deaths: int = 20, console: Console | None = None, overrides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Measure on `leap-omniglot` (glyphs in place of Omniglot), or as `overrides` change it.

    Args:
        deaths: How many workers are killed.
        console: Is told of a signal.
        overrides: `key=value` changes to the experiment.

    Raises:
        BadInputError: An override is wrong, or leaves no workers on this machine that could be
            killed in the middle of a task.
        InterruptedRunError: After a signal.
    """
    experiment = catalog.load("leap-omniglot", overridden(WORDS, overrides))
    check_workers_here("bench recovery", experiment)
    inner = experiment.inner
    if inner.num_steps <= inner.segment_steps:
        raise BadInputError(
            f"inner.segment_steps={inner.segment_steps}: a worker is killed between two segments "
            f"of a task, which has one alone of inner.num_steps={inner.num_steps}; give fewer"
        )
    with asked_to_stop(console) as stop:
        backend = RayBackend(experiment, Start())
        stop.begin()
        with training(experiment, backend, stop) as (trainer, _):
            trainer.outer_step()  # warm-up
            quiet = [_timed(trainer.outer_step) for _ in range(2)]
            saves = [_save_s(trainer) for _ in range(5)]
            clock = _Clock(trainer, backend, deaths)
            while clock.left:
                trainer.outer_step()
        share = _inner_checkpoint_share(experiment, stop)
    step_s, save_s = statistics.median(quiet), statistics.median(saves)
    return {
        "deaths": len(clock.recoveries),
        "recovery_s_median": statistics.median(clock.recoveries),
        "recovery_s_max": max(clock.recoveries),
        "segment_s": statistics.median(clock.segments),
        "outer_step_s": step_s,
        "save_s": save_s,
        "checkpoint_share": save_s / (experiment.checkpoint.every * step_s + save_s),
        **share,
    }


class _Clock:
    """Kills a worker in the middle of a task, and waits for the task to run again."""

    def __init__(self, trainer: Trainer, backend: RayBackend, deaths: int) -> None:
        self.left = deaths
        self.recoveries: list[float] = []
        self.segments: list[float] = []
        self._backend = backend
        self._random = random.Random(0)
        self._victim: TaskSpec | None = None
        self._at = 0.0
        self._seen = 0
        self._take, trainer._take = trainer._take, self._take_and_look  # type: ignore[method-assign]

    def _take_and_look(self, segment: Segment) -> Any:
        record = self._take(segment)
        victim, now = self._victim, time.monotonic()
        if victim is not None:
            if segment.spec.key == victim.key:
                if segment.spec.attempt > victim.attempt:
                    self.recoveries.append(now - self._at)
                    self.left -= 1
                    self._victim, self._seen = None, 0
                elif segment.final:  # it had ended by the time that its worker was killed
                    self._victim, self._seen = None, 0
            return record
        self._seen += 1
        self.segments.append(float(segment.rows["wall_ms"][0].as_py()) / 1e3 * len(segment.rows))
        # At some moment in the middle of a task, once all workers are at work again.
        if self.left and self._seen > 10 and self._random.random() < 0.2 and not segment.final:
            self._kill_worker_of(segment)
        return record

    def _kill_worker_of(self, segment: Segment) -> None:
        slots = self._backend._slots
        if any(slot.ready is not None for slot in slots):
            return
        for slot in slots:
            if slot.streams and slot.streams[0][0].key == segment.spec.key:
                self._victim, self._at = segment.spec, time.monotonic()
                os.kill(slot.pid, signal.SIGKILL)
                return


def _inner_checkpoint_share(experiment: Experiment, stop: StopRequest) -> dict[str, float]:
    """Return what checkpoints inside tasks take of a worker's time, every EVERY_INNER_STEPS."""
    inner = experiment.inner.model_copy(
        update={"num_steps": NUM_STATES * 100, "checkpoint_every": 100, "segment_steps": 100}
    )
    experiment = experiment.model_copy(update={"inner": inner})
    with tempfile.TemporaryDirectory(prefix="outerloop-bench-") as folder:
        steps, states = zip(*_segments(experiment, Path(folder), stop), strict=True)
    state_s = statistics.median(states)
    step_s = statistics.median(steps) / 100
    return {
        "inner_step_s": step_s,
        "inner_checkpoint_s": state_s,
        "inner_checkpoint_share": state_s / (EVERY_INNER_STEPS * step_s + state_s),
    }


def _segments(
    experiment: Experiment, folder: Path, stop: StopRequest
) -> Iterator[tuple[float, float]]:
    """Yield, for each segment but the first, seconds in inner steps and for the checkpoint."""
    from pipeline.network import initial_outer_parameters
    from pipeline.workers import make_worker

    worker = make_worker(experiment)
    spec = TaskSpec(0, 0, 0, "train", 0, folder=str(folder))
    begun = time.monotonic()
    for segment in worker.run(spec, [initial_outer_parameters(experiment).numpy()]):
        now = time.monotonic()
        stop.check()
        if segment.number > 0 and len(segment.rows):
            in_steps = float(segment.rows["wall_ms"][0].as_py()) / 1e3 * len(segment.rows)
            # The checkpoint of the segment before is written when this one is asked for.
            yield in_steps, now - begun - in_steps
        begun = time.monotonic()


def _save_s(trainer: Trainer) -> float:
    trainer.outer_step()
    return _timed(trainer.save)


def _timed(call: Any) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun
