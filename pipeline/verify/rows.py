"""Rows of inner steps in Parquet, a row group in memory at a time, and whether none is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.journal import FILE_SCHEMA
from pipeline.trajectories import ROW_GROUP

MAX_ROW_GROUP_BYTES = 256 << 20  # of 65,536 rows with about 80 bytes each
NEVER_NULL = ("task", "task_name", "attempt", "step", "loss", "grad_norm", "path_length", "lr")


class DamagedRowsError(Exception):
    """The file is not what was written; the message says how, without the file's name."""


def read_rows(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows (FILE_SCHEMA) of each row group, with the pages' checksums checked.

    Raises:
        DamagedRowsError: No Parquet file, torn or changed, or of other columns.
    """
    if not path.is_file() or path.is_symlink():
        raise DamagedRowsError("is no file")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_shape(file)
            for number in range(file.num_row_groups):
                rows = _whole(file.read_row_group(number))
                _check_statistics(file.metadata.row_group(number), rows)
                yield rows
    except (OSError, pa.ArrowException, ValueError, MemoryError, RuntimeError) as error:
        raise DamagedRowsError(f"is damaged ({error})") from None


def _check_shape(file: pq.ParquetFile) -> None:
    if not file.schema_arrow.equals(FILE_SCHEMA):
        raise DamagedRowsError("has other columns than a trajectory")
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if group.num_rows > ROW_GROUP or group.total_byte_size > MAX_ROW_GROUP_BYTES:
            raise DamagedRowsError("has a row group larger than any that is written")


def _check_statistics(group: pq.RowGroupMetaData, rows: pa.RecordBatch) -> None:
    """Check what queries go by: the least and the greatest of the whole numbers in a column."""
    for number in range(group.num_columns):
        column = group.column(number)
        values = rows.column(column.path_in_schema)
        if not pa.types.is_integer(values.type) or values.null_count == len(values):
            continue
        bounds, known = pc.min_max(values), column.statistics
        if known is None or (known.min, known.max) != (
            bounds["min"].as_py(),
            bounds["max"].as_py(),
        ):
            raise DamagedRowsError(f"column {column.path_in_schema}: other bounds than it has")


def _whole(table: pa.Table) -> pa.RecordBatch:
    table.validate(full=True)
    for name in NEVER_NULL:
        if table.column(name).null_count:
            raise DamagedRowsError(f"column {name}: a value is missing")
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=FILE_SCHEMA)


@dataclass(slots=True)
class RowOrder:
    """Follows rows: tasks by their number, the inner steps of each from 0 on, none twice."""

    task: int = -1
    step: int = -1

    def take(self, rows: pa.RecordBatch) -> str:
        """Take the next rows; return what is wrong with their order, empty if nothing is."""
        if not rows.num_rows:
            return ""
        tasks = np.concatenate([[self.task], rows.column("task").to_numpy()]).astype(np.int64)
        steps = np.concatenate([[self.step], rows.column("step").to_numpy()]).astype(np.int64)
        is_next = np.where(
            tasks[1:] == tasks[:-1],
            steps[1:] == steps[:-1] + 1,
            (tasks[1:] > tasks[:-1]) & (steps[1:] == 0),
        )
        self.task, self.step = int(tasks[-1]), int(steps[-1])
        wrong = np.flatnonzero(~is_next)
        if not len(wrong):
            return ""
        at = int(wrong[0])
        return _what_is_wrong(
            (int(tasks[at]), int(steps[at])), (int(tasks[at + 1]), int(steps[at + 1]))
        )


def _what_is_wrong(before: tuple[int, int], here: tuple[int, int]) -> str:
    """Return it in words; both are (task, inner step)."""
    task, step = here
    if task == before[0]:
        if step <= before[1]:
            return f"task {task}: inner step {step} is there twice, or out of order"
        return f"task {task}: inner steps {before[1] + 1} to {step - 1} are missing"
    if task < before[0]:
        return f"task {task}: is there twice, or out of order"
    return f"task {task}: begins at inner step {step}; those before are missing"


def by_task(rows: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows of each task, which stand together."""
    tasks = rows.column("task").to_numpy()
    bounds = [0, *(np.flatnonzero(np.diff(tasks)) + 1).tolist(), len(tasks)]
    for first, end in pairwise(bounds):
        if first < end:
            yield int(tasks[first]), rows.slice(first, end - first)
