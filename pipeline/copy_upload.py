"""Bringing a run's state to the storage: what is not there yet, and its manifest last."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.copy_claim import Claim
from pipeline.copy_lineage import (
    ElsewhereError,
    Known,
    check_owner,
    is_newer,
    read_known,
    read_manifests,
    write_known,
)
from pipeline.copy_manifest import (
    FILES,
    RECORDS,
    CopyManifest,
    DamagedCopyError,
    FileEntry,
    Marks,
    Record,
    check_path,
)
from pipeline.copy_owner import Owner, read_owner
from pipeline.copy_records import Part, first_to_pack, packed, parts_between
from pipeline.copy_stage import Staged
from pipeline.files import write_atomic
from pipeline.redaction import redact
from pipeline.storage import BLOCK, Storage
from pipeline.tracking_marks import FETCHED

RECORD_BYTES = 64 << 20  # about what one holds at most
MAX_OBJECT_NAME_BYTES = 200  # of its last part

logger = logging.getLogger(__name__)


class Uploader:
    """Makes copies of the run in the folder `run`; blocks, and raises what the storage raises.

    At all times: a copy that has a manifest is whole, and so are the ones before it that are kept:
    the newest of each of the last `keep` checkpoints, and the last two. What no kept copy names is
    removed, after the newer one is there.
    """

    def __init__(self, storage: Storage, run: Path, keep: int, owner: Owner) -> None:
        self._storage = storage
        self._run = run
        self._keep = keep
        self._owner = owner
        self._kept: list[CopyManifest] = []  # by number
        self._records: list[Record] = []  # of the newest copy, that hold what is in the folder
        self._sizes: dict[str, int] = {}  # of the objects there
        self._checksums: dict[tuple[int, int, int], str] = {}  # by identity of the file
        self._odd: set[str] = set()
        self.claim = Claim(storage, owner)
        self.came_from = ""  # the other machine that was at work on the run before, if any

    def begin(self, outer_steps: int, take_over: bool) -> None:
        """See what is there, and take the run as ours.

        Args:
            outer_steps: Where the folder's run stands.
            take_over: Whether to do so though someone else has it, or went on with it.

        Raises:
            ElsewhereError: Someone else does, or did.
        """
        manifests = read_manifests(self._storage)
        before = read_owner(self._storage)
        self.came_from = before.host if before and before.host != self._owner.host else ""
        if not take_over:
            check_owner(self._storage, self._owner.writer)
            self._check_newest(manifests, outer_steps)
        self.claim.beat(forced=True)
        if take_over:  # of its steps to come, MLflow may have points of whoever had it
            write_atomic(self._run / "tracking" / FETCHED, b"{}")
        known = read_known(self._run)
        self._kept = manifests
        sizes = self._storage.sizes(FILES) | self._storage.sizes(RECORDS)
        self._sizes = {name: size for name, size in sizes.items() if name not in known.damaged}
        base = [
            one for one in manifests if one.number == known.number and one.writer in known.writers
        ]
        self._records = list(base[0].records) if base else []
        if any(one.object_name in known.damaged for one in self._records):
            self._records = []  # with a gap, what lies in the folder is not what they hold
        while self._records and self._records[-1].last.outer_steps > outer_steps:
            self._records.pop()  # those steps are taken again
        write_known(self._run, replace(known, writers=known.writers | {self._owner.writer}))
        self._remove_unnamed()

    def publish(self, staged: Staged) -> None:
        """Copy what `staged` holds on to; ElsewhereError if someone else has taken the run."""
        before = set(self._sizes)
        files = [entry for path in staged.paths() if (entry := self._copy(staged, path))]
        records = self._copy_records(staged.marks)
        number = max((one.number for one in self._kept), default=0) + 1
        manifest = CopyManifest(
            number=number,
            step=staged.step,
            writer=self._owner.writer,
            host=self._owner.host,
            config=(staged.folder / "config.yaml").read_text(encoding="utf-8"),
            files=tuple(files),
            records=tuple(records),
        )
        self._check_sizes(one for one in manifest.parts if one.object_name not in before)
        self.claim.beat(forced=True)
        self._storage.write(manifest.name, [manifest.encode()])
        self._kept.append(manifest)
        self._records = records
        known = read_known(self._run)
        write_known(self._run, Known(number, known.writers | {self._owner.writer}))
        self._remove_old()

    def _check_newest(self, copies: Sequence[CopyManifest], outer_steps: int) -> None:
        """Raise ElsewhereError if the newest copy is of the run as it went on elsewhere."""
        if copies and is_newer(copies[-1], self._run, outer_steps):
            raise ElsewhereError(
                f"went on on {copies[-1].host}, up to outer step {copies[-1].step}; go on with "
                f"that: outerloop train --resume {redact(self._storage.address)}, or with what is "
                "here, and lose that: --take-over"
            )

    def _copy(self, staged: Staged, path: Path) -> FileEntry | None:
        """Bring a file there, unless its content is; None for one that has no place in a copy."""
        name = path.relative_to(staged.folder).as_posix()
        try:
            check_path(name)
            if len(path.name.encode()) > MAX_OBJECT_NAME_BYTES:
                raise DamagedCopyError("its name is too long")
        except DamagedCopyError as error:
            if name not in self._odd:
                self._odd.add(name)
                logger.warning("%s is not copied: %s", self._run / name, error)
            return None
        status = path.stat()
        identity = (status.st_ino, status.st_size, status.st_mtime_ns)
        if identity not in self._checksums:
            self._checksums[identity] = _digest(self._read(path))
        entry = FileEntry(name, status.st_size, self._checksums[identity])
        self._send(entry, partial(self._read, path))
        return entry

    def _copy_records(self, until: Marks) -> list[Record]:
        """Bring there what was put on record since the newest copy; return all records."""
        records = [one for one in self._records if one.last.within(until)]
        here = records[-1].last if records else Marks()
        parts = parts_between(self._run, here, until)
        first = first_to_pack(records, sum(part.size for part in parts))
        del records[first:]
        here = records[-1].last if records else Marks()
        while here != until:
            mark = _next_mark(self._run, here, until)
            parts = parts_between(self._run, here, mark)
            sha256, size = _digest_and_size(self._packed(parts))
            record = Record(here, mark, size, sha256)
            self._send(record, partial(self._packed, parts))
            records.append(record)
            here = mark
        return records

    def _send(self, one: FileEntry | Record, blocks: Callable[[], Iterable[bytes]]) -> None:
        """Write the object, unless it is there; OSError if it is no longer what it was."""
        name = one.object_name
        if self._sizes.get(name) == one.size:
            return
        digest = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for block in blocks():
                digest.update(block)
                yield block

        self._storage.write(name, hashed())
        if digest.hexdigest() != one.sha256:
            raise OSError(f"{name}: changed while it was copied")
        self._sizes[name] = one.size

    def _check_sizes(self, written: Iterable[FileEntry | Record]) -> None:
        """Raise OSError unless what was written is there."""
        for one in written:
            if (found := self._storage.size(one.object_name)) != one.size:
                self._sizes.pop(one.object_name, None)
                raise OSError(f"{one.object_name}: {found} bytes are there, not {one.size}")

    def _read(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                self.claim.beat()
                yield block

    def _packed(self, parts: Sequence[Part]) -> Iterator[bytes]:
        for block in packed(self._run, parts):
            self.claim.beat()
            yield block

    def _remove_old(self) -> None:
        newest_of: dict[int, int] = {}  # by step, in the order of the copies and not of steps: ...
        for one in reversed(self._kept):  # ... those after which the run went back go, too
            newest_of.setdefault(one.step, one.number)
        numbers = {*list(newest_of.values())[: self._keep], *(x.number for x in self._kept[-2:])}
        old = [one for one in self._kept if one.number not in numbers]
        self._kept = [one for one in self._kept if one.number in numbers]
        for manifest in old:  # first: without it, what it names is wanted no more
            self._storage.remove(manifest.name)
        self._remove_unnamed()

    def _remove_unnamed(self) -> None:
        named = {one.object_name for copy in self._kept for one in copy.parts}
        for name in sorted(self._sizes.keys() - named):
            self._storage.remove(name)
            del self._sizes[name]


def _next_mark(run: Path, here: Marks, until: Marks) -> Marks:
    """Return up to where the next record goes: `until`, or less if that is much."""
    mark = replace(until, outer_steps=here.outer_steps)
    held = 0
    while mark.outer_steps < until.outer_steps and held < RECORD_BYTES:
        following = replace(mark, outer_steps=mark.outer_steps + 1)
        held += sum(part.size for part in parts_between(run, mark, following))
        mark = following
    return mark


def _digest(blocks: Iterable[bytes]) -> str:
    return _digest_and_size(blocks)[0]


def _digest_and_size(blocks: Iterable[bytes]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for block in blocks:
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size
