"""A task under way on disk: the rows of its inner steps so far, and its inner checkpoints.

    in_flight/step-000012-task-0003/
        rows-000000000000-000000012000-<checksum>.parquet  inner steps [0, 12000)
        state-000000012000-<checksum>.safetensors          see pipeline.task_states

The driver writes the rows, the worker the states; a task that is begun again goes on from the
newest state up to which the driver holds all rows, so that no row is lost or there twice. Rows
of before their names had a checksum are read as well.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import TEMPORARY, disk_errors, sha256_file, write_atomic
from pipeline.messages import TRAJECTORY_SCHEMA, TaskKey, TaskSpec
from pipeline.task_states import DamagedStateError, state_header, state_steps

MAX_BUFFERED_ROWS = 32_768
COMPRESSION = "zstd"
TRAINED = "step-"
TRAINED_NAME = re.compile(r"step-(\d{6,19})-task-(\d{6,19})")
TESTED_NAME = re.compile(r"(?:train|val|test)(.*?)-(\d{6,19})-.*-task-\d{6,19}-repeat-\d{3,19}")
ROWS_NAME = re.compile(r"rows-(\d{12,19})-(\d{12,19})(?:-([0-9a-f]{16}))?\.parquet")
# The partition's name says the outer step; a column of the same name would clash with it.
FILE_SCHEMA = TRAJECTORY_SCHEMA.remove(TRAJECTORY_SCHEMA.get_field_index("meta_step"))

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TaskJournal:
    """Rows of one task, in the order of its inner steps, and where its worker keeps states.

    At all times:
      - row i is inner step i; `num_rows` is how many there are;
      - rows on disk come in whole files, before those in memory, of which there are at most
        MAX_BUFFERED_ROWS and those of one segment.

    One journal for each folder. The folder appears with its first file.
    """

    folder: Path
    num_rows: int = 0
    _files: list[tuple[int, Path]] = field(default_factory=list)  # end of the file's rows
    _buffered: list[pa.RecordBatch] = field(default_factory=list)
    _num_buffered: int = 0

    @classmethod
    def open(cls, folder: Path) -> TaskJournal:
        """Return the journal that a dead process left in `folder`: what follows on from step 0."""
        journal = cls(folder)
        if not folder.is_dir():
            return journal
        found = {}
        for path in folder.iterdir():
            if path.name.startswith(TEMPORARY):
                path.unlink(missing_ok=True)
            elif match := ROWS_NAME.fullmatch(path.name):
                found[int(match[1])] = (int(match[2]), path)
        while journal.num_rows in found:
            end, path = found[journal.num_rows]
            if end <= journal.num_rows or not _holds_rows(path, end - journal.num_rows):
                break
            journal._files.append((end, path))
            journal.num_rows = end
        taken = {path for _, path in journal._files}
        for path in folder.glob("rows-*"):
            if path not in taken:  # or a later attempt's rows would be followed by these
                path.unlink(missing_ok=True)
        return journal

    def add(self, rows: pa.RecordBatch) -> None:
        """Take the next `rows` (TRAJECTORY_SCHEMA).

        Raises:
            ValueError: Of another schema.
            RunFailedError: The disk is full or cannot be written.
        """
        if rows.schema != TRAJECTORY_SCHEMA:
            raise ValueError(f"rows are not in TRAJECTORY_SCHEMA: {rows.schema}")
        self._buffered.append(rows.select(FILE_SCHEMA.names))
        self._num_buffered += rows.num_rows
        self.num_rows += rows.num_rows
        if self._num_buffered > MAX_BUFFERED_ROWS:
            self.sync()

    def sync(self) -> None:
        """Force all rows to disk; RunFailedError if it does not take them."""
        if not self._num_buffered:
            return
        self._write(pa.Table.from_batches(self._buffered, FILE_SCHEMA), self.num_rows)
        self._buffered.clear()
        self._num_buffered = 0

    def rewind(self, step: int) -> None:
        """Forget the rows of the inner steps from `step` on."""
        if step >= self.num_rows:
            return
        in_memory = self.num_rows - self._num_buffered
        kept = pa.Table.from_batches(self._buffered, FILE_SCHEMA)[: max(0, step - in_memory)]
        self._buffered, self._num_buffered = kept.to_batches(), kept.num_rows
        while self._files and self._files[-1][0] > step:
            _, path = self._files.pop()
            first = self._end_on_disk()
            if first < step:
                self._write(pq.read_table(path)[: step - first], step)
            path.unlink(missing_ok=True)
        self.num_rows = step

    def batches(self, num_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield all rows (FILE_SCHEMA) in batches of `num_rows`, the last one shorter."""
        held: list[pa.RecordBatch] = []
        count = 0
        for batch in self._stored():
            held.append(batch)
            count += batch.num_rows
            if count >= num_rows:
                table = pa.Table.from_batches(held, FILE_SCHEMA)
                whole = count - count % num_rows
                for first in range(0, whole, num_rows):
                    yield table[first : first + num_rows].combine_chunks().to_batches()[0]
                held, count = table[whole:].to_batches(), count - whole
        if count:
            yield pa.Table.from_batches(held, FILE_SCHEMA).combine_chunks().to_batches()[0]

    def table(self) -> pa.Table:
        """Return all rows (FILE_SCHEMA)."""
        return pa.Table.from_batches(self._stored(), FILE_SCHEMA)

    @property
    def is_short(self) -> bool:
        """Whether all rows are in memory."""
        return not self._files

    def resume_point(self) -> tuple[int, int] | None:
        """Return the newest sound checkpoint with all rows before it: (inner step, version).

        The version is that of the outer parameters which the task began from. A damaged one is
        named in a warning.
        """
        for step in reversed(state_steps(self.folder)):
            if step > self.num_rows:
                continue
            try:
                return step, int(state_header(self.folder, step)["version"])
            except DamagedStateError as error:
                logger.warning("%s; the task goes on from an earlier step", error)
        return None

    def _end_on_disk(self) -> int:
        return self._files[-1][0] if self._files else 0

    def _stored(self) -> Iterator[pa.RecordBatch]:
        for _, path in self._files:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(MAX_BUFFERED_ROWS)
        yield from self._buffered

    def _write(self, table: pa.Table, end: int) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression=COMPRESSION, write_page_checksum=True)
        data = sink.getvalue().to_pybytes()
        checksum = hashlib.sha256(data).hexdigest()[:16]  # vouches for the footer, too
        path = self.folder / f"rows-{self._end_on_disk():012d}-{end:012d}-{checksum}.parquet"
        with disk_errors(f"rows of a task in {self.folder}", "free space, then resume the run"):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        self._files.append((end, path))


class Journals:
    """The journals of a run's tasks under way, each in a folder of its own within `folder`.

    `test` tells one meta-test from others of the same parameters (fewer steps, say): a journal of
    another one is of no use to it.
    """

    def __init__(self, folder: Path, test: str = "") -> None:
        self._folder = folder
        self._test = test
        self._open: dict[str, TaskJournal] = {}

    def name(self, spec: TaskSpec) -> str:
        """Return the name of the folder of the work of `spec`, whatever its attempt."""
        if spec.purpose == "train":
            return f"{TRAINED}{spec.meta_step:06d}-task-{spec.index:06d}"
        return (
            f"{spec.split}{self._test}-{spec.version:06d}-{spec.method}-task-{spec.task_id:06d}"
            f"-repeat-{spec.repeat:03d}"
        )

    def of(self, spec: TaskSpec) -> TaskJournal:
        """Return the journal of the work of `spec`; that of a dead process, if there is one."""
        name = self.name(spec)
        if name not in self._open:
            self._open[name] = TaskJournal.open(self._folder / name)
        return self._open[name]

    def release(self, spec: TaskSpec) -> None:
        """Forget a task, but for its files."""
        self._open.pop(self.name(spec), None)

    def prune(self, is_wanted: Callable[[TaskKey], bool]) -> None:
        """Remove the journals of meta-training whose task is not wanted any more."""
        for entry in self._entries():
            if (match := TRAINED_NAME.fullmatch(entry.name)) and not is_wanted(
                (int(match[1]), int(match[2]))
            ):
                shutil.rmtree(entry, ignore_errors=True)

    def prune_tests(self, specs: Sequence[TaskSpec]) -> None:
        """Remove the journals of meta-tests that no one goes on with, now that `specs` is begun.

        Another one of the same outer parameters may still be gone on with.
        """
        kept = {self.name(spec) for spec in specs}
        versions = {f"{spec.version:06d}" for spec in specs}
        for entry in self._entries():
            match = TESTED_NAME.fullmatch(entry.name)
            is_another = match and match[1] != self._test and match[2] in versions
            if not (entry.name in kept or entry.name.startswith(TRAINED) or is_another):
                shutil.rmtree(entry, ignore_errors=True)

    def remove_tests(self) -> None:
        """Remove the journals of this meta-test, whatever its parameters: it is on record."""
        for entry in self._entries():
            if (match := TESTED_NAME.fullmatch(entry.name)) and match[1] == self._test:
                shutil.rmtree(entry, ignore_errors=True)

    def _entries(self) -> list[Path]:
        return list(self._folder.iterdir()) if self._folder.is_dir() else []


def is_as_written(path: Path) -> bool:
    """Whether the bytes of a file of rows are those that its name vouches for, if it does."""
    match = ROWS_NAME.fullmatch(path.name)
    checksum = match[3] if match else None
    return checksum is None or sha256_file(path).startswith(checksum)


def _holds_rows(path: Path, num_rows: int) -> bool:
    try:
        if not is_as_written(path):
            raise ValueError("wrong checksum")
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(FILE_SCHEMA):
                raise ValueError("it has other columns")
            count = sum(batch.num_rows for batch in file.iter_batches(MAX_BUFFERED_ROWS))
            if count != num_rows:
                raise ValueError(f"{count} rows in place of {num_rows}")
        return True
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:120]
        logger.warning("%s is damaged (%s); its inner steps are taken again", path, reason)
        return False
