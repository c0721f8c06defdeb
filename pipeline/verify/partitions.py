"""One partition of the trajectories: all of it read, and its tasks' scalars."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.messages import TaskSpec
from pipeline.task_record import TaskRecord
from pipeline.verify.report import Report, ranges
from pipeline.verify.rows import DamagedRowsError, RowOrder, by_task, read_rows
from pipeline.verify.subject import Subject, entries

PARTITION = re.compile(r"meta_step=(\d{6,18})")
PART = re.compile(r"part-(\d{5,18})\.parquet")
MUST_BE_FINITE = ("loss", "grad_norm")  # or the task is left out of the update


def partition_folder(subject: Subject, meta_step: int) -> Path:
    """Return the folder of a partition."""
    return subject.run.trajectories / f"meta_step={meta_step:06d}"


def partitions(subject: Subject) -> list[int]:
    """Return the outer steps that have a partition, ascending."""
    names = [PARTITION.fullmatch(entry.name) for entry in entries(subject.run.trajectories)]
    return sorted(int(name[1]) for name in names if name)


def read_partition(
    subject: Subject, meta_step: int, report: Report
) -> Generator[str, None, list[TaskRecord] | None]:
    """Read a partition; yield what is wrong with it, and return its tasks if nothing is."""
    folder = partition_folder(subject, meta_step)
    parts = _parts(folder)
    missing = [number for number in range(max(parts, default=0) + 1) if number not in parts]
    if missing:
        yield f"{subject.name(folder)}: part {ranges(missing)} is missing"
        return None
    order, records = RowOrder(), dict[int, TaskRecord]()
    for _, path in sorted(parts.items()):
        try:
            for rows in read_rows(path):
                if wrong := order.take(rows):
                    yield f"{subject.name(folder)}: {wrong}"
                    return None
                _take(records, meta_step, rows)
        except DamagedRowsError as error:
            yield f"{subject.name(path)}: {error}"
            return None
    report.checked["partitions"] += 1
    report.checked["trajectory_rows"] += sum(record.num_steps for record in records.values())
    return list(records.values())


def _parts(folder: Path) -> dict[int, Path]:
    found = ((PART.fullmatch(entry.name), entry) for entry in entries(folder))
    return {int(match[1]): entry for match, entry in found if match}


def _take(records: dict[int, TaskRecord], meta_step: int, rows: pa.RecordBatch) -> None:
    """Add rows to the records of their tasks."""
    for task, some in by_task(rows):
        record = records.get(task)
        if record is None:
            record = records[task] = TaskRecord(TaskSpec(meta_step, task, 0, "train", meta_step))
            record.task = some.column("task_name")[0].as_py()
        record.finite &= all(np.isfinite(some.column(c).to_numpy()).all() for c in MUST_BE_FINITE)
        record.add_rows(some)
