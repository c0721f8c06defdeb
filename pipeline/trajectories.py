"""Inner-loop trajectories on disk: Parquet, one partition for each outer step.

    trajectories/meta_step=000012/part-00000.parquet

A partition appears whole when its outer step is committed, and holds the rows of the tasks that
were part of it, in their order; until then they are in the tasks' journals. A long task has a file
of its own, in row groups of ROW_GROUP inner steps, so that a query for some steps, or some columns,
of some tasks reads little else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.errors import BadInputError
from pipeline.files import atomic_folder, disk_errors, remove, remove_leftovers
from pipeline.journal import COMPRESSION, FILE_SCHEMA, TaskJournal
from pipeline.messages import TRAJECTORY_SCHEMA

ROW_GROUP = 65_536
PARTITION_KEY = pa.schema([("meta_step", pa.int64())])


class TrajectoryWriter:
    """Puts the rows of accepted tasks on record.

    At all times a partition on disk is complete. One writer for each folder: opening one removes
    what a dead process left half-written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with self._disk_errors():
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)

    def commit(self, meta_step: int, tasks: Sequence[TaskJournal]) -> None:
        """Write the partition of `meta_step`, replacing one that was there: all rows of `tasks`.

        RunFailedError if the disk is full or cannot be written; then no partition appears.
        """
        with self._disk_errors(), atomic_folder(self._partition(meta_step)) as partition:
            for number, stretch in enumerate(_stretches(tasks)):
                with _open_parquet(partition / f"part-{number:05d}.parquet") as writer:
                    for rows in _row_groups(stretch):
                        writer.write_table(rows, row_group_size=ROW_GROUP)

    def remove_from(self, meta_step: int) -> None:
        """Remove the partitions from `meta_step` on, of outer steps that are to be taken again."""
        with self._disk_errors():
            for entry in self._folder.glob("meta_step=*"):
                number = entry.name.partition("=")[2]
                if number.isdecimal() and int(number) >= meta_step:
                    remove(entry)

    def _partition(self, meta_step: int) -> Path:
        return self._folder / f"meta_step={meta_step:06d}"

    def _disk_errors(self) -> contextlib.AbstractContextManager[None]:
        return disk_errors(f"trajectories in {self._folder}", "free space, then resume the run")


def read_trajectories(
    folder: Path, columns: Sequence[str] | None = None, where: ds.Expression | None = None
) -> pa.Table:
    """Return the rows in `folder` (TRAJECTORY_SCHEMA), ordered by outer step, task, inner step.

    Args:
        folder: The run's trajectory folder; no rows come from one that does not exist.
        columns: Names of the columns wanted; None for all.
        where: Filter, such as `pyarrow.dataset.field("meta_step") == 3`; partitions that it
            rules out are not opened.

    BadInputError if a file is damaged: pages have checksums. `outerloop verify` looks deeper.
    """
    if not folder.is_dir():
        table = TRAJECTORY_SCHEMA.empty_table()
        return table if columns is None else table.select(columns)
    partitions = ds.partitioning(PARTITION_KEY, flavor="hive")
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    try:
        files = ds.dataset(
            folder,
            TRAJECTORY_SCHEMA,
            format=ds.ParquetFileFormat(default_fragment_scan_options=checked),
            partitioning=partitions,
        )
        return files.to_table(columns=columns, filter=where)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInputError(
            f"{folder}: cannot be read: {reason}; `outerloop verify {folder.parent.name}` names "
            "what is damaged"
        ) from None


def _stretches(tasks: Sequence[TaskJournal]) -> list[list[TaskJournal]]:
    """Return the tasks of each file, in order: neighbours that are short share one."""
    stretches: list[list[TaskJournal]] = [[]]
    for task in tasks:
        if stretches[-1] and not (task.is_short and stretches[-1][-1].is_short):
            stretches.append([])
        stretches[-1].append(task)
    return stretches


def _row_groups(tasks: Sequence[TaskJournal]) -> Iterator[pa.Table]:
    """Yield the rows of `tasks`: those of several short ones at once, of a long one in parts."""
    if len(tasks) == 1:
        for batch in tasks[0].batches(ROW_GROUP):
            yield pa.Table.from_batches([batch], FILE_SCHEMA)
        return
    rows = [batch for task in tasks for batch in task.batches(ROW_GROUP)]
    yield pa.Table.from_batches(rows, FILE_SCHEMA).combine_chunks()


def _open_parquet(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, FILE_SCHEMA, compression=COMPRESSION, write_page_checksum=True)
