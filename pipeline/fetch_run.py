"""A run brought back from its copies, into the home, to be gone on with here.

Everything is written to a hidden folder and checked while it comes: sizes, checksums, names. The
folder takes the run's name only when it is whole. Nothing that a copy says leads out of it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.checkpoint import CheckpointStore
from pipeline.checkpoint_files import DamagedCheckpointError, verify
from pipeline.config import load_experiment, to_yaml
from pipeline.copy_manifest import CopyManifest, DamagedCopyError, FileEntry, Record
from pipeline.copy_records import unpack
from pipeline.copy_upload import (
    ElsewhereError,
    Known,
    check_owner,
    is_newer,
    read_manifests,
    write_known,
)
from pipeline.delivery import FETCHED
from pipeline.errors import BadInputError, OuterloopError, RunFailedError
from pipeline.files import sync_folder, write_atomic
from pipeline.outbox import drop_foreign_items
from pipeline.progress import Progress
from pipeline.redaction import redact
from pipeline.runs import RunFolder, check_home, home
from pipeline.storage import (
    DamagedObjectError,
    Storage,
    absolute_address,
    check_address,
    is_address,
    parent_and_name,
    reason_of,
)

RUN_ID = re.compile(r"[\w][\w.=,+-]{0,199}")
CONFIG = "config.yaml"
SPARE_BYTES = 64 << 20  # of the disk, that a copy does not fill

logger = logging.getLogger(__name__)


def open_run(
    text: str, progress: Progress, is_to_go_on: bool = True, take_over: bool = False
) -> RunFolder:
    """Find the run that `text` names in the home, or fetch it if that is the address of a copy.

    Args:
        text: As of `RunFolder.open`, or `<copy_to>/<run id>`.
        progress: Is told what is fetched.
        is_to_go_on: Whether the run is to be gone on with, and not only looked at.
        take_over: Go on with it even if another machine is at work on it.

    Raises:
        BadInputError: There is no such run; it is here already, and its copy is no newer; or
            another machine is at work on it.
        RunFailedError: The storage does not answer, or no copy there is sound.
    """
    if not is_address(text) and not (Path(text) / "copies").is_dir():
        return RunFolder.open(text)
    address = absolute_address(text)
    if "@" in address or redact(address) != address:
        raise BadInputError(f"'{redact(address)}': give no password; it comes from the environment")
    check_address(address)
    parent, run_id = parent_and_name(address)
    if not RUN_ID.fullmatch(run_id):
        raise BadInputError(f"'{redact(address)}': '{run_id}' is no name of a run")
    check_home()
    try:
        return _fetched(Storage(address), parent, run_id, progress, is_to_go_on, take_over)
    except ElsewhereError as error:
        raise BadInputError(f"run {run_id} {error}") from None
    except OuterloopError:
        raise
    except Exception as error:  # all that a file system and its network can raise
        shown = redact(address)
        raise RunFailedError(f"{shown}: {reason_of(error)}; nothing was fetched") from error


def _fetched(
    storage: Storage,
    parent: str,
    run_id: str,
    progress: Progress,
    is_to_go_on: bool,
    take_over: bool,
) -> RunFolder:
    copies = read_manifests(storage)
    if not copies:
        raise BadInputError(f"{redact(storage.address)}: there is no sound copy of a run")
    if is_to_go_on and not take_over:
        check_owner(storage)
    here = RunFolder(home() / run_id)
    if here.path.exists() and (reason := _why_not_older(here, copies[-1])):
        if not is_to_go_on:
            return here
        raise BadInputError(reason)
    _remove_leftovers(run_id)
    fetching = _Fetching(storage, home() / f".fetching-{run_id}-{os.getpid()}")
    try:
        copy, copies = _newest_sound(fetching, copies)
        _make_ours(fetching, copy, copies, parent)
        _put_in_place(fetching.folder, here, progress)
    finally:
        shutil.rmtree(fetching.folder, ignore_errors=True)
    progress.message(
        f"run {run_id}: fetched the copy of outer step {copy.step} from {redact(storage.address)}"
    )
    return here


def _newest_sound(
    fetching: _Fetching, copies: list[CopyManifest]
) -> tuple[CopyManifest, list[CopyManifest]]:
    """Fetch the newest copy that is sound; of a run that is at work, old ones go meanwhile."""
    while True:
        try:
            return fetching.newest_sound(copies), copies
        except RunFailedError:
            later = read_manifests(fetching.storage)
            if not later or later[-1].number <= copies[-1].number:
                raise
            copies = later


def _why_not_older(here: RunFolder, copy: CopyManifest) -> str:
    """Return why the copy is not to take the place of the run in the home; empty if it may.

    BadInputError if a process is at work on that.
    """
    with here.locked():
        step = max(CheckpointStore(here.checkpoints, keep=2).steps(), default=0)
        if is_newer(copy, here.path, step):
            return ""
        return (
            f"run {here.run_id} is in {home()} already, at outer step {step}, and its copy is no "
            f"newer; go on with: outerloop train --resume {here.run_id}, or move its folder away"
        )


def _remove_leftovers(run_id: str) -> None:
    """Remove what processes left that were killed while they fetched the run."""
    for folder in home().glob(f".fetching-{run_id}-[0-9]*"):
        try:
            os.kill(int(folder.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, ValueError, OverflowError):
            continue


def _make_ours(
    fetching: _Fetching, copy: CopyManifest, copies: list[CopyManifest], parent: str
) -> None:
    """Make the fetched folder one of this machine, that is copied to where it came from."""
    folder = fetching.folder
    for name in ("checkpoints", "trajectories", "evaluation", "plots", "tracking"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "log.txt").touch()
    (folder / "tracking" / FETCHED).write_text("{}")
    drop_foreign_items(folder / "tracking" / "pending")
    if fetching.has_gaps:  # what was counted as sent may lie elsewhere now
        (folder / "tracking" / "delivered.json").unlink(missing_ok=True)
    experiment = load_experiment(folder / CONFIG)
    if experiment.checkpoint.copy_to != parent:
        checkpoint = experiment.checkpoint.model_copy(update={"copy_to": parent})
        experiment = experiment.model_copy(update={"checkpoint": checkpoint})
        write_atomic(folder / CONFIG, to_yaml(experiment).encode())
    writers = frozenset(one.writer for one in copies)
    write_known(folder, Known(copy.number, writers, frozenset(fetching.damaged)))


def _put_in_place(folder: Path, here: RunFolder, progress: Progress) -> None:
    """Give the fetched folder the run's name; an older one that has it is kept."""
    if here.path.exists():
        aside = home() / f".older-{here.run_id}-{secrets.token_hex(3)}"
        here.path.rename(aside)
        progress.message(f"run {here.run_id} was here, but older; it is kept as {aside}")
    folder.rename(here.path)
    sync_folder(home())


@dataclass(slots=True)
class _Fetching:
    """Brings a copy to `folder`."""

    storage: Storage
    folder: Path
    damaged: dict[str, str] = field(default_factory=dict)  # by object, what is wrong with it
    has_gaps: bool = False  # whether a record is missing

    def newest_sound(self, copies: list[CopyManifest]) -> CopyManifest:
        """Fetch the newest copy that is whole; without one, the newest that can be gone on with.

        RunFailedError if there is none. What is passed over is named in warnings.
        """
        for with_gaps in (False, True):
            for copy in reversed(copies):
                try:
                    self._fetch(copy, with_gaps)
                    return copy
                except (DamagedCopyError, DamagedCheckpointError) as error:
                    self._warn(copy, error, with_gaps, is_last=copy is copies[0])
        raise RunFailedError(
            f"{redact(self.storage.address)}: every copy is damaged ({len(copies)}): "
            f"{next(iter(self.damaged.values()), 'its checkpoint')}"
        )

    def _warn(self, copy: CopyManifest, error: Exception, again: bool, is_last: bool) -> None:
        if not again:
            instead = "" if is_last else "; using the one before"
            logger.warning("the copy of outer step %d is damaged (%s)%s", copy.step, error, instead)

    def _fetch(self, copy: CopyManifest, with_gaps: bool) -> None:
        """Fetch a copy; DamagedCopyError if what cannot be done without is not as it was."""
        self._check_room(copy)
        self._start_over()
        for entry in copy.files:
            if entry.path == CONFIG:
                continue
            needed = entry.path.startswith(_checkpoint(copy))
            on_record = entry.path.startswith(("checkpoints/", "tracking/target.json"))
            self._try(entry, self._file, needed or (on_record and not with_gaps))
        for record in copy.records:
            self._try(record, self._record, not with_gaps)
        (self.folder / CONFIG).write_text(copy.config, encoding="utf-8")
        if copy.step:
            manifest = verify(self.folder / _checkpoint(copy))
            if manifest.step != copy.step:
                raise DamagedCopyError("its checkpoint is that of another outer step")

    def _try(self, one: Any, fetch: Callable[[Any], None], is_needed: bool) -> None:
        name = one.object_name
        try:
            if name in self.damaged:
                raise DamagedCopyError(self.damaged[name])
            fetch(one)
        except FileNotFoundError:
            self.damaged[name] = f"{name}: is not there"
        except (DamagedCopyError, DamagedObjectError) as error:
            self.damaged[name] = str(error)
        if name not in self.damaged:
            return
        self.has_gaps |= isinstance(one, Record)
        if is_needed:
            raise DamagedCopyError(self.damaged[name])
        logger.warning("%s: is left out of what is fetched", self.damaged[name])

    def _file(self, entry: FileEntry) -> None:
        path = self.folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                for block in self._checked(entry):
                    file.write(block)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _record(self, record: Record) -> None:
        # Twice through the network at worst; never unpacked before it is known to be sound.
        path = self.folder / ".record"
        with path.open("wb") as file:
            for block in self._checked(record):
                file.write(block)
        with path.open("rb") as file:
            unpack(iter(lambda: file.read(1 << 20), b""), self.folder)
        path.unlink()

    def _checked(self, one: FileEntry | Record) -> Iterator[bytes]:
        """Yield the object's blocks; DamagedCopyError after the last if they are not as written."""
        digest, size = hashlib.sha256(), 0
        for block in self.storage.blocks(one.object_name, one.size):
            digest.update(block)
            size += len(block)
            yield block
        if size != one.size or digest.hexdigest() != one.sha256:
            raise DamagedCopyError(f"{one.object_name}: torn, or changed")

    def _check_room(self, copy: CopyManifest) -> None:
        size = sum(one.size for one in copy.parts)
        free = shutil.disk_usage(home()).free
        if size + SPARE_BYTES > free:
            raise RunFailedError(
                f"the copy of outer step {copy.step} takes {size >> 20} MiB, and {home()} has room "
                f"for {free >> 20}; set OUTERLOOP_HOME to a larger disk"
            )

    def _start_over(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.has_gaps = False
        self.folder.mkdir(parents=True)


def _checkpoint(copy: CopyManifest) -> str:
    """Return the folder of its checkpoint, within the run's."""
    return f"checkpoints/step-{copy.step:06d}/"
