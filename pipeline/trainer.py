"""The meta-training loop, over any backend: one outer step after the other, and the meta-test.

The Trainer is the control plane: it samples the meta-batch, hands out specs, forwards
references and keeps the books. Parameters and gradients pass it by.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

from pipeline.aggregator import Accepted, Commit, ShardUpdate
from pipeline.backend import Backend
from pipeline.budgets import Budget, budgets, spent
from pipeline.checkpoint import CheckpointStore
from pipeline.config import Experiment
from pipeline.copy_sink import CopySink, NoCopies
from pipeline.dispatcher import Counters, Dispatcher
from pipeline.errors import (
    AggregatorLostError,
    InterruptedRunError,
    OuterloopError,
    RunFailedError,
    TaskFailedError,
)
from pipeline.evaluation import TaskCurve
from pipeline.failure import Action, Kind, decide
from pipeline.interrupt import StopRequest
from pipeline.journal import Journals
from pipeline.learners import is_episodic
from pipeline.live_report import LiveReport
from pipeline.messages import Segment, Split, TaskFailure, TaskKey, TaskSpec
from pipeline.meta_test import adaptations, curves_of
from pipeline.open_tasks import OpenTasks
from pipeline.progress import OuterProgress, Progress
from pipeline.run_meter import NoMeter, RunMeter
from pipeline.schedule import make_schedule
from pipeline.task_record import TaskRecord, outer_figures, returns_by_environment
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
    journals: Journals
    metrics: MetricSink
    counters: Counters = field(default_factory=Counters)
    data: str = ""  # SHA-256 of what is meta-trained on: a resumed run must find it again
    experiment: Mapping[str, Any] = field(default_factory=dict)  # what it has to leave as it is
    copies: CopySink = field(default_factory=NoCopies)
    meter: RunMeter = field(default_factory=NoMeter)


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
        schedule: Mapping[str, Any] | None = None,
        live: LiveReport | None = None,
    ) -> None:
        """Start at `version` outer steps.

        Args:
            experiment: What is run.
            backend: Where workers and aggregator are, at `version` too.
            books: Where all of it goes on record.
            stop: Says when to stop.
            progress: Is told how it goes.
            version: Outer steps taken.
            schedule: What the checkpoint of `version` says of it.
            live: Is told of tasks under way; by default it tells `progress` alone.
        """
        self.experiment = experiment
        self.version = version
        self._backend = backend
        self._books = books
        self._progress = progress
        self._schedule = make_schedule(experiment, version, dict(schedule or {}))
        self._tasks = OpenTasks(experiment, books.journals)
        books.journals.prune(self._schedule.is_open)
        self._dispatcher = Dispatcher(
            backend, experiment, books.counters, stop, self._resumed, books.meter
        )
        self._stream: Iterator[Segment] = iter(())
        num_steps = partial(planned_steps, experiment)
        self._live = live or LiveReport(num_steps, progress, None)
        self._of_episodes = is_episodic(experiment)
        self._between_steps = True  # aggregator, books and `version` agree
        self._saved_version = version if books.checkpoints.steps() else -1
        self.inner_steps_taken = self.env_steps_taken = 0  # of whole outer steps, by this process
        self._started = (time.monotonic(), version, self.budgets())

    def train(self, until: int) -> None:
        """Take outer steps up to `until`, with checkpoints; on an interruption, save first.

        Ends before `until` when a budget is used up: see `spent`.
        """
        every = self.experiment.checkpoint.every
        self._books.trajectories.remove_from(self.version)
        try:
            while self.version < until and not self.spent():
                self.outer_step(until)
                if self.version % every == 0:
                    self.save()
        except (InterruptedRunError, RunFailedError) as error:
            self._save_on_the_way_out(str(error))
            raise
        self.save()
        if self._dispatcher.open_tasks:  # async: they can be gone on with from the checkpoint
            self._dispatcher.give_up()
            self._stream = iter(())

    def spent(self) -> str:
        """Return the key of the budget that is used up; empty if none is."""
        return spent(self.experiment.meta.model_dump(), asdict(self._books.counters))

    def budgets(self) -> dict[str, Budget]:
        """Return what is used of each budget, by its key."""
        return budgets(self.experiment.meta.model_dump(), asdict(self._books.counters))

    def outer_step(self, until: int = 0) -> None:
        """Gather the tasks of an outer step, take it and put it on record.

        In async mode tasks are handed out on the way, as many as `until` outer steps take (by
        default this one).
        """
        begun = time.monotonic()
        self._dispatcher.peak_in_flight = 0
        ended: dict[TaskKey, TaskRecord] = {}
        updates: list[ShardUpdate] = []
        while not updates:
            self._gather(max(until, self.version + 1), ended)
            commit = self._commit_of(ended)
            records = list(ended.values())
            specs = [record.spec for record in records]
            journals = [self._tasks.journal(spec) for spec in specs]
            self._books.trajectories.commit(self.version, journals)
            self._between_steps = False
            with suppress(AggregatorLostError):  # it stands at the outer step before
                updates = self._backend.commit(commit)
            self._between_steps = not updates
        staleness = [self._schedule.staleness(record.spec) for record in records]
        self._count(records, commit)
        self._books.meter.dropped(len(commit.dropped))
        self._books.meter.outer_step(max(staleness))
        self._schedule.close(ended, moved=bool(commit.accepted))
        self.version += 1
        wall_s = time.monotonic() - begun
        self._books.counters.train_s += wall_s
        self._report(records, updates, staleness, wall_s)
        self._tasks.forget(specs)
        self._between_steps = True
        self._check_bad_tasks()

    def save(self) -> None:
        """Write a checkpoint of the outer steps taken, unless there is one already."""
        if self._saved_version == self.version:
            return
        self._books.metrics.sync()
        with self._books.checkpoints.draft(self.version) as draft:
            shards = self._backend.write_checkpoint(draft.folder, self.version)
            books = self._books
            meta = {
                "counters": asdict(books.counters),
                "data": books.data,
                "experiment": dict(books.experiment),
            }
            draft.commit(shards, meta | {"schedule": self._schedule.state()})
        self._saved_version = self.version
        # Not before: a run that falls back on the checkpoint before this one takes them again.
        self._books.journals.prune(self._schedule.is_open)
        self._books.copies.offer(self.version)

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

        What is kept of it on the way is for the caller to remove (`Journals.remove_tests`), once
        the result is on record.

        `version` is that of the parameters that the backend holds, by default the newest.
        """
        version = self.version if version is None else version
        specs = adaptations(methods, num_tasks, self.experiment.evaluation.repeats, split, version)
        name = "meta-test" if split == "test" else "validation"
        self._progress.phase(name, len(specs))
        self._books.journals.prune_tests(specs)
        self._live.begin(name, specs)
        last: dict[int, Segment] = {}
        for segment in self._dispatcher.run(map(self._resumed, specs)):
            self._live.take(segment)
            self._take_rows(segment)
            if segment.final:
                last[segment.spec.index] = segment
                self._progress.advance()
        for segment in last.values():
            if segment.failure:
                self._books.counters.dropped += 1
                self._books.meter.dropped(1)
                logger.warning("%s: %s left out: %s", name, segment.task, segment.failure)
        adapted = [last[spec.index] for spec in specs]
        curves = curves_of(adapted, lambda spec: self._tasks.journal(spec).table())
        self._tasks.forget(specs)
        return curves

    def _resumed(self, spec: TaskSpec) -> TaskSpec:
        """Return a task that is to be handed out so that nothing it did before is done again."""
        is_training = spec.purpose == "train"
        return self._tasks.resume(spec, self._schedule.current if is_training else lambda s: s)

    def _gather(self, until: int, ended: dict[TaskKey, TaskRecord]) -> None:
        """Run tasks until the aggregator wholly holds as many as make an outer step: `ended`."""
        title = f"outer step {self.version + 1}/{self.experiment.meta.num_steps}"
        self._live.begin(title, self._schedule.planned(), self._schedule.num_per_step)
        while True:
            while len(ended) < self._schedule.num_per_step:
                segment = self._next_segment(until)
                record = self._take(segment)
                if segment.final:
                    ended[segment.spec.key] = record
            lost = self._backend.missing(self._commit_of(ended))
            if not lost:
                for key in sorted(ended):  # in this order from now on
                    ended[key] = ended.pop(key)
                return
            kind = Kind.FOLDS_LOST if self._backend.has_lost_folds() else Kind.OBJECT_LOST
            reason = "slices of its outer gradient were lost on the way"
            for key in lost:
                failure = TaskFailure(ended.pop(key).spec, reason, kind)
                self._dispatcher.begin_again(failure)

    def _next_segment(self, until: int) -> Segment:
        while (segment := next(self._stream, None)) is None:
            specs = map(self._resumed, self._schedule.specs(until))
            self._stream = self._dispatcher.run(specs)
        return segment

    def _take(self, segment: Segment) -> TaskRecord:
        self._live.take(segment)
        record = self._take_rows(segment)
        if segment.finite and segment.pieces:
            self._backend.fold(segment)
        if not segment.finite:
            logger.warning(
                "outer step %d: task %d (%s) left out: %s",
                self.version + 1,
                segment.spec.index,
                segment.task,
                segment.failure or "its loss or gradient is not finite",
            )
        return record

    def _take_rows(self, segment: Segment) -> TaskRecord:
        self._books.copies.check()
        record = self._tasks.take(segment)
        self._books.meter.segment(*record.newest)
        if segment.kept:
            self._books.copies.offer_tasks(self.version)
        return record

    def _commit_of(self, ended: Mapping[TaskKey, TaskRecord]) -> Commit:
        accepted = {}
        for key, record in sorted(ended.items()):
            weight = self._schedule.weight(self._schedule.staleness(record.spec))
            if record.finite and weight:
                accepted[key] = Accepted(record.spec.attempt, record.num_parts, weight)
        return Commit(
            self.version,
            accepted,
            self._schedule.oldest_open(ended),
            frozenset(ended.keys() - accepted.keys()),
        )

    def _count(self, records: Sequence[TaskRecord], commit: Commit) -> None:
        counters = self._books.counters
        counters.unmoved += not commit.accepted
        for record in records:
            counters.tasks += 1
            counters.inner_steps += record.num_steps
            counters.env_steps += record.env_steps
            self.inner_steps_taken += record.taken[0]
            self.env_steps_taken += record.taken[1]
            counters.dropped += record.spec.key in commit.dropped
            counters.stale += record.finite and record.spec.key in commit.dropped
            counters.bad_in_a_row = 0 if record.finite else counters.bad_in_a_row + 1

    def _check_bad_tasks(self) -> None:
        bad, bound = self._books.counters.bad_in_a_row, self.experiment.meta.max_bad_tasks
        if bad and decide(Kind.NOT_FINITE, bad - 1, self.experiment).action is Action.STOP:
            raise TaskFailedError(
                f"{bad} tasks in a row were not finite or failed (meta.max_bad_tasks is {bound}); "
                "start a new run with a smaller inner.lr or outer.lr, or mend the environment"
            )

    def _report(
        self,
        records: Sequence[TaskRecord],
        updates: Sequence[ShardUpdate],
        staleness: Sequence[int],
        wall_s: float,
    ) -> None:
        counters = self._books.counters
        figures = outer_figures(records, updates) | {
            "perf/inner_steps_per_s": sum(r.taken[0] for r in records) / wall_s,
            "perf/tasks_in_flight": float(self._dispatcher.peak_in_flight),
            "fault/retries": float(counters.retries),
            "fault/dropped_tasks": float(counters.dropped),
        }
        if self.experiment.meta.mode == "async":
            figures |= {
                "outer/staleness_mean": sum(staleness) / len(staleness),
                "outer/staleness_max": float(max(staleness)),
                "perf/queue_depth": float(self._dispatcher.open_tasks),
                "fault/stale_tasks": float(counters.stale),
            }
        if (behind := self._books.copies.behind) is not None:
            figures["fault/copies_behind"] = float(behind)
        returns = returns_by_environment(records)
        figures |= returns
        if any(record.env_steps for record in records):
            figures["perf/env_steps_per_s"] = sum(r.taken[1] for r in records) / wall_s
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
        """Return when the last outer step will have been taken, or the first budget be used up."""
        since, first, before = self._started
        taken = self.version - first
        if not taken:
            return None
        left = float(self.experiment.meta.num_steps - self.version)
        for key, budget in self.budgets().items():
            used = budget.used - before[key].used
            if budget.most and used:
                # No outer step is begun beyond a budget, and none is broken off.
                left = min(left, math.ceil(taken * (budget.most - budget.used) / used))
        return (time.monotonic() - since) / taken * max(0.0, left)
