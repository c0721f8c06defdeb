"""Tasks under way: what has arrived of each, where it goes on if its worker is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from pipeline.config import Experiment
from pipeline.journal import Journals, TaskJournal
from pipeline.messages import Segment, TaskSpec
from pipeline.task_kinds import ENVIRONMENT_KINDS
from pipeline.task_record import TaskRecord
from pipeline.task_states import drop_states_after

logger = logging.getLogger(__name__)


class OpenTasks:
    """Scalars and rows of every task that was begun and is not yet on record.

    At all times a task's record and journal hold the same inner steps, from 0 on, of which none
    is there twice, whatever number of attempts they came from.
    """

    def __init__(self, experiment: Experiment, journals: Journals) -> None:
        self._inner = experiment.inner
        self._new_episodes = experiment.task.kind in ENVIRONMENT_KINDS
        self._journals = journals
        self._records: dict[str, TaskRecord] = {}

    def resume(self, spec: TaskSpec, fresh: Callable[[TaskSpec], TaskSpec]) -> TaskSpec:
        """Return `spec` so that it goes on from its newest checkpoint; `fresh(spec)` without one.

        A task that goes on keeps the version that it began from.
        """
        if not (self._inner.checkpoint_every or self._inner.snapshot_every):
            return fresh(spec)
        journal = self._journals.of(spec)
        point = journal.resume_point() if self._inner.checkpoint_every else None
        drop_states_after(journal.folder, 0 if point is None else point[0])
        if point is None:
            return fresh(spec).resumed(0, str(journal.folder))
        step, version = point
        spec = replace(spec, version=version)
        logger.warning(
            "%s goes on from its inner step %d%s",
            spec.title,
            step,
            "; its environments begin new episodes" if self._new_episodes else "",
        )
        return spec.resumed(step, str(journal.folder))

    def take(self, segment: Segment) -> TaskRecord:
        """Take in a segment; return all that is known of its task's attempt."""
        spec, name = segment.spec, self._journals.name(segment.spec)
        journal = self._journals.of(spec)
        record = self._records.get(name)
        if record is None or record.spec.attempt != spec.attempt:
            journal.rewind(spec.resume)
            record = self._records[name] = self._replayed(spec, journal, record)
        journal.add(segment.rows)
        record.add(segment)
        if segment.kept:
            journal.sync()
        return record

    def journal(self, spec: TaskSpec) -> TaskJournal:
        """Return the rows of a task."""
        return self._journals.of(spec)

    def forget(self, specs: Iterable[TaskSpec]) -> None:
        """Forget tasks; their files stay, to be pruned once nothing can want them again."""
        for spec in specs:
            self._records.pop(self._journals.name(spec), None)
            self._journals.release(spec)

    def _replayed(
        self, spec: TaskSpec, journal: TaskJournal, earlier: TaskRecord | None
    ) -> TaskRecord:
        """Return the record of the inner steps that an earlier attempt took.

        Without a record of it, that was in an earlier process.
        """
        record = TaskRecord(spec)
        for rows in journal.batches(self._inner.segment_steps):  # sums bitwise as they were
            record.add_rows(rows)
        there = record.num_steps, record.env_steps
        record.replayed = there if earlier is None else min(there, earlier.replayed)
        return record
