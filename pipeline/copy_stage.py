"""The state of a run at one moment, held on to while it is copied and the run goes on.

Holding is a hard link to each file, which costs no room and no time: files of a run are replaced
or removed, never changed. What only grows is held on to by how far it has grown.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoint import VALIDATION, CheckpointStore
from pipeline.copy_manifest import Marks
from pipeline.copy_records import marks_of
from pipeline.files import DISPLACED, TEMPORARY, read_object
from pipeline.tracking_marks import DELIVERED, FETCHED, TARGET

STAGING = ".copying"  # in the run's folder
WHOLE_FOLDERS = ("in_flight", "evaluation", "plots", "snapshots", "videos")


@dataclass(frozen=True, slots=True)
class Staged:
    """A run at one moment: files in `folder`, and the marks of what grows."""

    folder: Path
    step: int  # of its newest checkpoint; 0 without one
    marks: Marks

    def discard(self) -> None:
        """Let go of the files."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another state is held on to
            self.folder.parent.rmdir()

    def paths(self) -> list[Path]:
        """Return all its files, in a fixed order: the newest checkpoint's manifest last."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(files, key=lambda path: (path.name == "manifest.json", path))


def stage(run: Path, number: int, outer_steps: int) -> Staged:
    """Hold on to all that is needed to go on with the run, as it is now.

    To be called by the thread that trains, between two things that it puts on record.

    Args:
        run: The run's folder.
        number: Tells this moment from others of the same process.
        outer_steps: How many have been taken: what is on record of the next one may yet change.

    Raises:
        OSError: The disk is full.
    """
    folder = run / STAGING / f"{number:08d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checkpoints = CheckpointStore(run / "checkpoints", keep=2)
    # One of a later step was damaged, or the run would have gone on from it.
    step = max((step for step in checkpoints.steps() if step <= outer_steps), default=0)
    try:
        for path in _files(run, step):
            _hold(path, folder / path.relative_to(run))
        # After the files: what delivered.json counts as sent is in the metrics by then.
        return Staged(folder, step, marks_of(run, outer_steps))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def remove_stages(run: Path) -> None:
    """Let go of what a dead process held on to."""
    shutil.rmtree(run / STAGING, ignore_errors=True)


def _files(run: Path, step: int) -> Iterator[Path]:
    """Yield the files that are to be held on to, each if it is there."""
    for name in (DELIVERED, TARGET, FETCHED):
        yield run / "tracking" / name
    pending = run / "tracking" / "pending"
    yield from _below(pending, "[0-9]*/*")
    yield from _below(pending, "[0-9]*.json")  # after its files: an item is removed before them
    yield run / "config.yaml"
    yield run / "summary.json"
    validation = run / "checkpoints" / VALIDATION
    yield validation
    for kept in sorted({step, _best(validation)}):
        yield from _below(run / "checkpoints" / f"step-{kept:06d}", "*")
    for name in WHOLE_FOLDERS:
        yield from _below(run / name, "**/*")


def _below(folder: Path, pattern: str) -> Iterator[Path]:
    for path in sorted(folder.glob(pattern)):
        parts = path.relative_to(folder).parts
        unfinished = any(part.startswith((TEMPORARY, DISPLACED)) for part in parts)
        if not unfinished and path.is_file() and not path.is_symlink():
            yield path


def _hold(path: Path, target: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # it was removed just now: not needed any more
        try:
            if not target.parent.is_dir():
                target.parent.mkdir(parents=True)
            os.link(path, target)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links
            shutil.copyfile(path, target)


def _best(validation: Path) -> int:
    """Return the outer step of the best checkpoint by validation; that of none if there is none."""
    try:
        return int(read_object(validation)["best"]["step"])
    except (OSError, ValueError, TypeError, KeyError):
        return -1
