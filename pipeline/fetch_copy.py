"""One copy of a run on its way from the storage into a folder, checked while it comes.

Sizes, checksums and names: nothing that a copy says leads out of the folder, and nothing larger
than it says is written. What is damaged is named, and what cannot be done without is looked for in
the copies before.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.checkpoint_files import DamagedCheckpointError, verify
from pipeline.copy_manifest import CopyManifest, DamagedCopyError, FileEntry, Record
from pipeline.copy_records import unpack
from pipeline.errors import RunFailedError
from pipeline.redaction import redact
from pipeline.runs import home
from pipeline.storage import BLOCK, DamagedObjectError, Storage

CONFIG = "config.yaml"
SPARE_BYTES = 64 << 20  # of the disk, that a copy does not fill

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Fetching:
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
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            reason = f"{name}: something else has its place in the run's folder"
            if is_needed:  # the copy is made up, and in another one the object may be fine
                raise DamagedCopyError(reason) from None
            self.damaged[name] = reason
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
        try:
            with path.open("wb") as file:
                for block in self._checked(record):
                    file.write(block)
            with path.open("rb") as file:
                unpack(iter(lambda: file.read(BLOCK), b""), self.folder)
        finally:
            path.unlink(missing_ok=True)

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
