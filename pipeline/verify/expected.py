"""What the configuration says of the rows of an outer step, however its tasks fare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.learners import is_episodic
from pipeline.task_record import TaskRecord
from pipeline.tasks import sample_meta_batch

if TYPE_CHECKING:
    from pipeline.config import Experiment


@dataclass(frozen=True, slots=True)
class Expected:
    """Sizes of an outer step, in tasks, and of a task, in inner steps."""

    tasks_per_step: int
    rows_per_task: int | None  # None: it depends on the data set, as with `inner.epochs`
    is_async: bool  # then tasks are numbered through the run

    def problems(self, name: str, records: Sequence[TaskRecord]) -> Iterator[str]:
        """Yield what the outer step whose partition is `name` has too much of."""
        if len(records) > self.tasks_per_step:
            yield f"{name}: {len(records)} tasks, where {self.tasks_per_step} make an outer step"
        elif not self.is_async and records and records[-1].spec.index >= self.tasks_per_step:
            yield f"{name}: task {records[-1].spec.index} is none of {self.tasks_per_step}"
        for record in records:
            if self.rows_per_task is not None and record.num_steps > self.rows_per_task:
                yield (
                    f"{name}: task {record.spec.index} has {record.num_steps} inner steps, "
                    f"where a task has {self.rows_per_task}"
                )

    def mark_short(self, records: Sequence[TaskRecord]) -> None:
        """Mark tasks that ended early: only one that fails, or is not finite any more, does."""
        for record in records:
            if self.rows_per_task is not None:
                record.finite &= record.num_steps == self.rows_per_task


def expected_of(experiment: Experiment) -> Expected:
    """Return what `experiment` lets expect."""
    meta = experiment.meta
    is_async = meta.mode == "async"
    batch_size = len(sample_meta_batch(experiment, 0))
    rows: int | None = experiment.inner.num_steps
    if is_episodic(experiment):
        rows = experiment.episodes.group
    elif experiment.task.kind == "datasets" and experiment.inner.epochs:
        rows = None
    return Expected((is_async and meta.apply_every) or batch_size, rows, is_async)
