"""Checkpoints of the outer loop: saved whole or not at all, verified, the last few kept.

A checkpoint is written to a hidden folder, forced to disk, read back against the checksums that
its writers took of the bytes in memory, and renamed to `step-000012` last; older ones go only
after that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint_files import (
    Array,
    DamagedCheckpointError,
    ShardFile,
    read_vectors,
    verify,
    write_manifest,
    write_shard,
)
from pipeline.errors import BadInputError, RunFailedError
from pipeline.files import (
    disk_errors,
    publish_folder,
    read_object,
    remove_leftovers,
    temporary_beside,
    write_atomic,
)

FOLDER_NAME = re.compile(r"step-(\d{6,})")
VALIDATION = "validation.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint, put together again from however many shards it was written in."""

    step: int
    params: Array  # float32 [P]
    optimizer: dict[str, Array]  # each [P], or [] for a counter
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Best:
    """Which checkpoint did best in validation."""

    step: int
    score: float  # higher is better


class Draft:
    """A checkpoint in the making: shards are written to `folder`, and `commit` makes it count."""

    def __init__(self, step: int, target: Path) -> None:
        self.step = step
        self.folder = temporary_beside(target)
        self.committed = False
        self._target = target

    def commit(self, shards: Sequence[ShardFile], meta: Mapping[str, Any]) -> None:
        """Verify what is on disk against `shards` and make it the checkpoint of its step.

        `meta` is anything that JSON can hold. Constant memory: the vectors are hashed, not read.

        Raises:
            RunFailedError: The disk gave back other data than was written.
        """
        write_manifest(self.folder, self.step, shards, meta)
        try:
            verify(self.folder)
        except DamagedCheckpointError as error:
            raise RunFailedError(f"checkpoint {self._target}: not as written: {error}") from None
        publish_folder(self.folder, self._target)
        self.committed = True


class CheckpointStore:
    """The checkpoints of one run.

    At all times a folder `step-NNNNNN` was verified before it got that name, and at least the
    one before it is kept (`keep` >= 2), should the disk damage it later. Only one process saves.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        if keep < 2:
            raise ValueError(f"keep: expected at least 2, got {keep}")
        self._folder = folder
        self._keep = keep

    @contextlib.contextmanager
    def draft(self, step: int) -> Iterator[Draft]:
        """Give a draft of the checkpoint after outer step `step`, to be written and committed.

        A draft that is not committed when the block ends leaves no trace.

        Raises:
            RunFailedError: Disk full or not writable; the checkpoints before are untouched.
        """
        draft = Draft(step, self._folder_of(step))
        advice = "make room or mend the folder, then resume; earlier checkpoints are untouched"
        with disk_errors(f"checkpoint {self._folder_of(step)}", advice):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                remove_leftovers(self._folder)
                draft.folder.mkdir()
                yield draft
            finally:
                if not draft.committed:
                    shutil.rmtree(draft.folder, ignore_errors=True)
        if draft.committed:
            self._remove_old(step)

    def save(
        self,
        step: int,
        shards: Sequence[tuple[int, Array, Mapping[str, Array]]],
        meta: Mapping[str, Any],
    ) -> None:
        """Write, verify and publish a checkpoint whose shards (offset, params, optimizer) are here.

        Raises RunFailedError as `draft` does.
        """
        with self.draft(step) as draft:
            draft.commit([write_shard(draft.folder, *shard) for shard in shards], meta)

    def load_latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is sound; None if there is none yet.

        A damaged one is named in a warning and the one before it is taken.

        Raises:
            BadInputError: All are damaged, or one is in a format that this version cannot read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.load(step)
            except DamagedCheckpointError as error:
                folder = self._folder_of(step)
                instead = "; using the one before" if step > steps[0] else ""
                logger.warning("checkpoint %s is damaged (%s)%s", folder, error, instead)
        if steps:
            raise BadInputError(
                f"{self._folder}: every checkpoint is damaged ({len(steps)}); restore the folder "
                "from a backup, or start a new run"
            )
        return None

    def load(self, step: int) -> Checkpoint:
        """Return the checkpoint of outer step `step`; DamagedCheckpointError if it is not sound."""
        folder = self._folder_of(step)
        try:
            manifest = verify(folder)
            if manifest.step != step:
                raise DamagedCheckpointError(f"its manifest is that of outer step {manifest.step}")
            params, optimizer = read_vectors(folder, manifest.shards)
        except OSError as error:
            raise DamagedCheckpointError(str(error)) from None
        return Checkpoint(manifest.step, params, optimizer, manifest.meta)

    def record_validation(self, step: int, score: float | None) -> None:
        """Put on record that outer step `step` was looked at, and mark the best so far.

        The best by `score` (higher is better; None: there is nothing to choose by) keeps its
        checkpoint. RunFailedError if the disk does not take the record.
        """
        best = self._read_best()
        if score is not None and (best is None or score > best.score):
            best = Best(step, score)
        record = {"best": asdict(best) if best else None, "newest": step}
        path = self._folder / VALIDATION
        with disk_errors(f"{path}", "make room or mend the folder, then resume"):
            write_atomic(path, json.dumps(record).encode())

    def newest_validation(self) -> int:
        """Return the last outer step that was looked at; -1 if none was."""
        newest = self._read_validation().get("newest")
        return newest if isinstance(newest, int) else -1

    def best(self) -> Best | None:
        """Return the best by validation; None if there is none, or its checkpoint is not sound.

        One that is damaged is named in a warning.
        """
        best = self._read_best()
        if best is None:
            return None
        folder = self._folder_of(best.step)
        try:
            verify(folder)
        except (DamagedCheckpointError, OSError) as error:
            logger.warning(
                "checkpoint %s, the best by validation, is damaged (%s); using the newest",
                folder,
                error,
            )
            return None
        return best

    def _read_best(self) -> Best | None:
        mark: Any = self._read_validation().get("best")
        try:
            best = Best(int(mark["step"]), float(mark["score"]))
        except (ValueError, TypeError, KeyError, OverflowError):
            return None
        return best if best.step in self.steps() else None

    def _read_validation(self) -> dict[str, Any]:
        try:
            return read_object(self._folder / VALIDATION)
        except (OSError, ValueError):
            return {}

    def steps(self) -> list[int]:
        """Return the outer steps that have a checkpoint, ascending; sound or not."""
        if not self._folder.is_dir():
            return []
        names = (FOLDER_NAME.fullmatch(entry.name) for entry in self._folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def _folder_of(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"

    def _remove_old(self, newest: int) -> None:
        # One of a later step was damaged, or the run would have gone on from it.
        kept = [step for step in self.steps() if step <= newest][-self._keep :]
        best = self._read_best()
        for step in set(self.steps()) - set(kept) - ({best.step} if best else set()):
            shutil.rmtree(self._folder_of(step), ignore_errors=True)
