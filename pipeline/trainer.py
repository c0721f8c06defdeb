"""The meta-training loop, over any backend: one outer step after the other, and the meta-test.

The Trainer is the control plane: it samples the meta-batch, hands out specs, forwards
references and keeps the books. Parameters and gradients pass it by.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Protocol

from pipeline.aggregator import ShardUpdate
from pipeline.backend import Accepted, Backend
from pipeline.checkpoint import CheckpointStore
from pipeline.config import Experiment
from pipeline.dispatcher import Counters, Dispatcher
from pipeline.errors import InterruptedRunError, OuterloopError, RunFailedError, TaskFailedError
from pipeline.evaluation import TaskCurve
from pipeline.interrupt import StopRequest
from pipeline.learners import is_episodic
from pipeline.live_points import LivePoints
from pipeline.live_report import LiveReport
from pipeline.messages import Segment, Split, TaskFailure, TaskSpec
from pipeline.meta_test import adaptations, curves_of
from pipeline.progress import OuterProgress, Progress
from pipeline.task_record import TaskRecord, outer_figures, returns_by_environment
from pipeline.tasks import sample_meta_batch
from pipeline.tasks.shapes import planned_steps
from pipeline.trajectories import TrajectoryWriter

logger = logging.getLogger(__name__)


class MetricSink(Protocol):
    """Where curves go."""

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log `values` at outer step `step`; never waits for a server."""

    def sync(self) -> None:
        """Force to disk what was logged."""


@dataclass(slots=True)
class Books:
    """Where a run keeps what it finds out."""

    checkpoints: CheckpointStore
    trajectories: TrajectoryWriter
    metrics: MetricSink
    counters: Counters = field(default_factory=Counters)
    data: str = ""  # SHA-256 of what is meta-trained on: a resumed run must find it again


class Trainer:
    """Takes outer steps from `version` on.

    At all times everything of step v is on record (trajectory, metrics) before a checkpoint that
    holds v + 1 is written. Whatever goes wrong between the two leaves the checkpoint before.
    """

    def __init__(
        self,
        experiment: Experiment,
        backend: Backend,
        books: Books,
        stop: StopRequest,
        progress: Progress,
        version: int = 0,
        live: LiveReport | None = None,
    ) -> None:
        self.experiment = experiment
        self.version = version
        self._backend = backend
        self._books = books
        self._progress = progress
        self._dispatcher = Dispatcher(backend, experiment.workers.max_retries, books.counters, stop)
        self._live = live or LiveReport(
            partial(planned_steps, experiment),
            experiment.meta.num_steps,
            progress,
            LivePoints(books.metrics.log_metrics, experiment.tracking.live_every_s),
        )
        self._of_episodes = is_episodic(experiment)
        self._between_steps = True  # aggregator, books and `version` agree
        self._saved_version = version if books.checkpoints.steps() else -1
        self._started = (time.monotonic(), version)

    def train(self, until: int) -> None:
        """Take outer steps up to `until`, with checkpoints; on an interruption, save first."""
        every = self.experiment.checkpoint.every
        try:
            while self.version < until:
                self.outer_step()
                if self.version % every == 0:
                    self.save()
        except (InterruptedRunError, RunFailedError) as error:
            self._save_on_the_way_out(str(error))
            raise
        self.save()

    def outer_step(self) -> None:
        """Run a meta-batch, take the outer step and put it on record."""
        begun = time.monotonic()
        self._dispatcher.peak_in_flight = 0
        step = self.version
        records = self._run_meta_batch(step)
        self._books.trajectories.commit(step, {i: r.attempt for i, r in records.items()})
        self._between_steps = False
        updates = self._backend.commit(step, _accepted(records))
        self._count(records)
        self.version = step + 1
        self._report(records.values(), updates, time.monotonic() - begun)
        self._between_steps = True
        self._check_bad_tasks()

    def save(self) -> None:
        """Write a checkpoint of the outer steps taken, unless there is one already."""
        if self._saved_version == self.version:
            return
        self._books.metrics.sync()
        with self._books.checkpoints.draft(self.version) as draft:
            shards = self._backend.write_checkpoint(draft.folder, self.version)
            draft.commit(
                shards, {"counters": asdict(self._books.counters), "data": self._books.data}
            )
        self._saved_version = self.version

    def _save_on_the_way_out(self, reason: str) -> None:
        """Keep what can be kept; `reason` ends the run, and is told in its end, not here."""
        self._backend.discard()
        if not self._between_steps:
            return
        try:
            self.save()
        except OuterloopError as error:
            if str(error) != reason:
                logger.warning("%s", error)

    def meta_test(
        self,
        methods: Sequence[str],
        num_tasks: int,
        split: Split = "test",
        version: int | None = None,
    ) -> list[TaskCurve]:
        """Adapt to every task of a held-out split, by every method, on the same minibatches.

        `version` is that of the parameters that the backend holds, by default the newest.
        """
        version = self.version if version is None else version
        specs = adaptations(methods, num_tasks, self.experiment.evaluation.repeats, split, version)
        name = "meta-test" if split == "test" else "validation"
        self._progress.phase(name, len(specs))
        self._live.begin(specs)
        parts: dict[int, list[Segment]] = {}
        for segment in self._dispatcher.run(specs):
            self._live.take(segment)
            held = parts.get(segment.spec.index, [])
            if held and held[-1].spec.attempt != segment.spec.attempt:
                held = []
            parts[segment.spec.index] = [*held, segment]
            if segment.final:
                self._progress.advance()
        failed = [segments[-1] for segments in parts.values() if segments[-1].failure]
        for segment in failed:
            self._books.counters.dropped += 1
            logger.warning("%s: %s left out: %s", name, segment.task, segment.failure)
        return curves_of([parts[spec.index] for spec in specs])

    def _run_meta_batch(self, step: int) -> dict[int, TaskRecord]:
        """Run the meta-batch's tasks until the aggregator holds each one wholly."""
        specs = {
            index: TaskSpec(step, index, task_id, "train", step)
            for index, task_id in enumerate(sample_meta_batch(self.experiment, step))
        }
        records: dict[int, TaskRecord] = {}
        wanted = list(specs.values())
        self._live.begin(wanted)
        while wanted:
            for segment in self._dispatcher.run(wanted):
                self._take(segment, records)
            wanted = []
            for index in self._backend.missing(step, _accepted(records)):
                last = replace(specs[index], attempt=records[index].attempt)
                reason = "slices of its outer gradient were lost on the way"
                wanted.append(self._dispatcher.retry(TaskFailure(last, reason, True)))
        return records

    def _take(self, segment: Segment, records: dict[int, TaskRecord]) -> None:
        self._live.take(segment)
        spec = segment.spec
        record = records.get(spec.index)
        if record is None or record.attempt != spec.attempt:
            if record is not None:
                self._books.trajectories.discard(spec.meta_step, spec.index, record.attempt)
            record = records[spec.index] = TaskRecord(spec.attempt)
        record.add(segment)
        self._books.trajectories.add(spec.meta_step, spec.index, spec.attempt, segment.rows)
        if segment.finite:
            self._backend.fold(segment)
        else:
            logger.warning(
                "outer step %d: task %d (%s) left out: %s",
                spec.meta_step,
                spec.index,
                segment.task,
                segment.failure or "its loss or gradient is not finite",
            )

    def _count(self, records: dict[int, TaskRecord]) -> None:
        counters = self._books.counters
        for _, record in sorted(records.items()):
            counters.tasks += 1
            counters.inner_steps += record.num_steps
            counters.env_steps += record.env_steps
            counters.dropped += not record.finite
            counters.bad_in_a_row = 0 if record.finite else counters.bad_in_a_row + 1

    def _check_bad_tasks(self) -> None:
        bad, bound = self._books.counters.bad_in_a_row, self.experiment.meta.max_bad_tasks
        if bad > bound:
            raise TaskFailedError(
                f"{bad} tasks in a row were not finite or failed (meta.max_bad_tasks is {bound}); "
                "start a new run with a smaller inner.lr or outer.lr, or mend the environment"
            )

    def _report(
        self, records: Collection[TaskRecord], updates: Sequence[ShardUpdate], wall_s: float
    ) -> None:
        counters = self._books.counters
        figures = outer_figures(records, updates) | {
            "perf/inner_steps_per_s": sum(r.num_steps for r in records) / wall_s,
            "perf/tasks_in_flight": float(self._dispatcher.peak_in_flight),
            "fault/retries": float(counters.retries),
            "fault/dropped_tasks": float(counters.dropped),
        }
        returns = returns_by_environment(records)
        figures |= returns
        if env_steps := sum(record.env_steps for record in records):
            figures["perf/env_steps_per_s"] = env_steps / wall_s
        known = {name: value for name, value in figures.items() if not math.isnan(value)}
        self._books.metrics.log_metrics(self.version, known)
        self._progress.outer_step(
            OuterProgress(
                step=self.version,
                num_steps=self.experiment.meta.num_steps,
                loss_first=figures["train/loss_first"],
                loss_last=figures["train/loss" if self._of_episodes else "train/loss_last"],
                grad_norm=figures["outer/grad_norm"],
                inner_steps_per_s=figures["perf/inner_steps_per_s"],
                tasks_in_flight=self._dispatcher.peak_in_flight,
                eta_s=self._eta_s(),
                retries=counters.retries,
                dropped=counters.dropped,
                of_episodes=self._of_episodes,
                episode_return=sum(returns.values()) / len(returns) if returns else None,
            )
        )

    def _eta_s(self) -> float | None:
        since, first = self._started
        taken = self.version - first
        if not taken:
            return None
        left = self.experiment.meta.num_steps - self.version
        return (time.monotonic() - since) / taken * left


def _accepted(records: Mapping[int, TaskRecord]) -> Accepted:
    return {i: (r.attempt, r.num_segments) for i, r in sorted(records.items()) if r.finite}
