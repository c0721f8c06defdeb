"""trajectories/: a partition for each outer step, and the rows in it against what was counted."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.task_record import TaskRecord
from pipeline.verify.curves import Curve
from pipeline.verify.expected import Expected, expected_of
from pipeline.verify.figures import LoggedFigures
from pipeline.verify.partitions import partition_folder, partitions, read_partition
from pipeline.verify.report import Report, few, ranges
from pipeline.verify.subject import Sound, Subject

NAME = "trajectories"


@dataclass(slots=True)
class Totals:
    """Sums over the outer steps before the newest checkpoint."""

    rows: int = 0
    env_steps: int = 0
    tasks: int = 0  # that have rows
    bad: int = 0  # of them, cut short or with a loss or gradient that is not finite
    is_whole: bool = True  # False: a partition is missing or damaged
    numbers: array[int] = field(default_factory=lambda: array("q"))  # of the tasks

    def add(self, records: Sequence[TaskRecord]) -> None:
        """Add an outer step."""
        self.tasks += len(records)
        self.rows += sum(record.num_steps for record in records)
        self.env_steps += sum(record.env_steps for record in records)
        self.bad += sum(not record.finite for record in records)
        self.numbers.extend(record.spec.index for record in records)


def check_trajectories(
    subject: Subject, curves: Mapping[str, Curve] | None, report: Report
) -> None:
    """Check every partition; in memory are one row group and the scalars of an outer step.

    With `curves`, those of the log, they are compared.
    """
    if subject.experiment is None:
        report.skip(f"{NAME} against counters and curves: config.yaml is damaged")
    report.take(NAME, _problems(subject, curves, report))


def _problems(
    subject: Subject, curves: Mapping[str, Curve] | None, report: Report
) -> Iterator[str]:
    found = partitions(subject)
    yield from _gaps(subject, found)
    totals, logged = Totals(), LoggedFigures(subject, curves or {})
    totals.is_whole = found[: subject.steps] == list(range(subject.steps))
    expected = expected_of(subject.experiment) if subject.experiment else None
    yield from few(_each(subject, found, expected, totals, logged, report), NAME)
    if expected is None:
        return
    num_hidden = 0
    if subject.newest is not None and totals.is_whole:
        yield from _count_problems(subject.newest, totals, expected)
        yield from _number_problems(subject.newest, totals, expected)
        counters = subject.newest.counters
        absent = counters.tasks - totals.tasks
        num_hidden = max(0, counters.dropped - counters.stale - totals.bad - absent)
    yield from logged.problems(num_hidden, report)
    report.checked["figures_recomputed"] += logged.num_compared


def _gaps(subject: Subject, found: list[int]) -> Iterator[str]:
    """Yield what partitions are missing, there twice, or beyond the end."""
    present, steps = set(found), subject.steps
    missing = [step for step in range(steps) if step not in present]
    if missing:
        yield f"{NAME}: no partition of meta_step {ranges(missing)}"
    if len(present) < len(found):
        yield f"{NAME}: two partitions of one meta_step"
    beyond = [step for step in found if step >= steps]
    if subject.is_live or not beyond:
        return
    if subject.is_finished:
        yield f"{NAME}: a partition of meta_step {ranges(beyond)}, but the run ended before it"
    elif beyond != list(range(steps, steps + len(beyond))):
        yield f"{NAME}: no partition of a meta_step before {beyond[-1]}"
    elif subject.experiment and len(beyond) > (every := subject.experiment.checkpoint.every):
        yield (
            f"{NAME}: partitions of {len(beyond)} outer steps after the newest sound checkpoint, "
            f"where one is written every {every}: a checkpoint is missing"
        )


def _each(
    subject: Subject,
    found: list[int],
    expected: Expected | None,
    totals: Totals,
    logged: LoggedFigures,
    report: Report,
) -> Iterator[str]:
    """Yield what is wrong with each partition by itself; add it to `totals` and `logged`."""
    for step in found:
        is_counted = step < subject.steps
        if subject.is_live and not is_counted:
            continue
        records = yield from read_partition(subject, step, report)
        if records is None:
            totals.is_whole &= not is_counted
        elif expected is not None:
            folder = partition_folder(subject, step)
            yield from expected.problems(subject.name(folder), records)
            expected.mark_short(records)
            if is_counted:
                totals.add(records)
                logged.compare(step + 1, records, folder)


def _count_problems(newest: Sound, totals: Totals, expected: Expected) -> Iterator[str]:
    """Yield where the rows are not what the newest checkpoint counted."""
    counters = newest.counters
    where = f"the checkpoint of outer step {newest.step} counts"
    if counters.tasks != newest.step * expected.tasks_per_step:
        yield f"{NAME}: {where} {counters.tasks} tasks, {expected.tasks_per_step} an outer step"
    if totals.rows != counters.inner_steps:
        yield f"{NAME}: {totals.rows} rows, but {where} {counters.inner_steps} inner steps"
    if totals.env_steps != counters.env_steps:
        yield f"{NAME}: {totals.env_steps} env steps, but {where} {counters.env_steps}"
    left_out, absent = counters.dropped - counters.stale, counters.tasks - totals.tasks
    if totals.bad + absent > left_out:
        yield (
            f"{NAME}: {totals.bad} tasks are cut short or not finite and {absent} have no rows, "
            f"but {where} {left_out} that were left out"
        )


def _number_problems(newest: Sound, totals: Totals, expected: Expected) -> Iterator[str]:
    """Yield tasks of an async run that are in two outer steps, or on record and still open."""
    if not expected.is_async:
        return
    numbers, counts = np.unique(np.frombuffer(totals.numbers, np.int64), return_counts=True)
    if (counts > 1).any():
        yield f"{NAME}: in two outer steps: task {ranges(numbers[counts > 1].tolist())}"
    handed_out, still_open = newest.schedule.get("next", 0), newest.schedule.get("open", [])
    wrong = np.intersect1d(numbers, np.array(still_open, np.int64)).tolist()
    wrong += numbers[numbers >= handed_out].tolist()
    if wrong:
        yield (
            f"{NAME}: by the checkpoint of outer step {newest.step} these tasks have not ended: "
            f"{ranges(wrong)}"
        )
