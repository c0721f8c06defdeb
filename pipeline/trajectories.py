"""Inner-loop trajectories on disk: Parquet, one partition for each outer step.

    trajectories/meta_step=000012/part-00000.parquet

A partition appears whole when its outer step is committed, and holds the rows of the accepted
attempts only, in the order of the tasks. Rows wait in memory, at most MAX_BUFFERED_ROWS for each
attempt; longer trajectories go to a hidden file beside the partitions, which the commit renames.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.files import TEMPORARY, atomic_folder, disk_errors, remove_leftovers
from pipeline.messages import TRAJECTORY_SCHEMA

MAX_BUFFERED_ROWS = 4096
PARTITION_KEY = pa.schema([("meta_step", pa.int64())])
# The partition's name says the outer step; a column of the same name would clash with it.
FILE_SCHEMA = TRAJECTORY_SCHEMA.remove(TRAJECTORY_SCHEMA.get_field_index("meta_step"))


@dataclass(slots=True)
class _Attempt:
    """Rows of one attempt at one task that wait for the commit of their outer step."""

    spill_path: Path
    buffered: list[pa.RecordBatch] = field(default_factory=list)
    num_buffered: int = 0
    spill: pq.ParquetWriter | None = None

    def add(self, rows: pa.RecordBatch) -> None:
        self.buffered.append(rows)
        self.num_buffered += rows.num_rows
        if self.num_buffered > MAX_BUFFERED_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self.spill is None:
            self.spill = _open_parquet(self.spill_path)
        self.spill.write_table(pa.Table.from_batches(self.buffered, FILE_SCHEMA))
        self.buffered.clear()
        self.num_buffered = 0

    def move_spill(self, path: Path) -> None:
        """Complete the spilled file and give it the name `path`."""
        self._flush()
        assert self.spill is not None
        self.spill.close()
        self.spill_path.rename(path)

    def discard(self) -> None:
        if self.spill is not None:
            with contextlib.suppress(OSError):
                self.spill.close()
            self.spill_path.unlink(missing_ok=True)


class TrajectoryWriter:
    """Collects the rows that attempts stream, and writes those of accepted attempts.

    At all times:
      - a partition on disk is complete and has rows of one attempt for each of its tasks;
      - memory is bounded by the attempts in flight, not by the length of their trajectories.

    One writer for each folder: opening one removes what a dead process left half-written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._attempts: dict[tuple[int, int, int], _Attempt] = {}
        with self._disk_errors():
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)

    def add(self, meta_step: int, task: int, attempt: int, rows: pa.RecordBatch) -> None:
        """Take a segment's `rows` (TRAJECTORY_SCHEMA), in the order of its inner steps."""
        if rows.schema != TRAJECTORY_SCHEMA:
            raise ValueError(f"rows of task {task} are not in TRAJECTORY_SCHEMA: {rows.schema}")
        key = (meta_step, task, attempt)
        if key not in self._attempts:
            name = f"{TEMPORARY}step-{meta_step}-task-{task}-attempt-{attempt}.parquet"
            self._attempts[key] = _Attempt(self._folder / name)
        with self._disk_errors():
            self._attempts[key].add(rows.select(FILE_SCHEMA.names))

    def discard(self, meta_step: int, task: int, attempt: int) -> None:
        """Forget the rows of a dead or rejected attempt; no matter if there are none."""
        dropped = self._attempts.pop((meta_step, task, attempt), None)
        if dropped is not None:
            dropped.discard()

    def commit(self, meta_step: int, accepted: Mapping[int, int]) -> None:
        """Write the partition of `meta_step`, replacing one of an earlier attempt at the step.

        Args:
            meta_step: The outer step that was taken.
            accepted: For each task index that counted, the number of its accepted attempt; rows
                of all other attempts at this outer step are dropped.

        Raises:
            RunFailedError: The disk is full or cannot be written; no partition appears.
        """
        attempts = [
            self._attempts[meta_step, task, accepted[task]]
            for task in sorted(accepted)
            if (meta_step, task, accepted[task]) in self._attempts
        ]
        try:
            with self._disk_errors(), atomic_folder(self._partition(meta_step)) as partition:
                _write_parts(partition, attempts)
        finally:
            for key in [key for key in self._attempts if key[0] == meta_step]:
                self.discard(*key)

    def close(self) -> None:
        """Drop everything that was not committed."""
        for key in list(self._attempts):
            self.discard(*key)

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
    """
    if not folder.is_dir():
        table = TRAJECTORY_SCHEMA.empty_table()
        return table if columns is None else table.select(columns)
    partitions = ds.partitioning(PARTITION_KEY, flavor="hive")
    files = ds.dataset(folder, TRAJECTORY_SCHEMA, format="parquet", partitioning=partitions)
    return files.to_table(columns=columns, filter=where)


def _write_parts(partition: Path, attempts: list[_Attempt]) -> None:
    """Write one file for each stretch of buffered attempts, and one for each spilled attempt."""
    part_names = (partition / f"part-{number:05d}.parquet" for number in range(len(attempts) + 1))
    for buffered, spilled in _stretches(attempts):
        if buffered or not attempts:
            with _open_parquet(next(part_names)) as writer:
                writer.write_table(pa.Table.from_batches(buffered, FILE_SCHEMA))
        if spilled is not None:
            spilled.move_spill(next(part_names))


def _stretches(attempts: list[_Attempt]) -> Iterator[tuple[list[pa.RecordBatch], _Attempt | None]]:
    buffered: list[pa.RecordBatch] = []
    for attempt in attempts:
        if attempt.spill is None:
            buffered += attempt.buffered
        else:
            yield buffered, attempt
            buffered = []
    yield buffered, None


def _open_parquet(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, FILE_SCHEMA, compression="zstd")
