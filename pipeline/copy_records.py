"""What a run puts on record and never changes, packed into few objects to be copied.

A record is a length (8 bytes), a JSON list of parts, and the parts' bytes one after the other:
trajectories of outer steps, and the lines that log.txt and metrics.jsonl grew by. It is a function
of the run's folder and two marks, so small ones can be packed again into a larger one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pipeline.copy_manifest import DamagedCopyError, Marks, Record, check_path, is_count
from pipeline.files import whole_lines_size
from pipeline.storage import BLOCK

LOG = "log.txt"
METRICS = "tracking/metrics.jsonl"
GROWING = {"log": LOG, "metrics": METRICS}  # by the name of their mark
LENGTH = struct.Struct("<Q")
MAX_TABLE_BYTES = 64 << 20
MERGED_UP_TO = 8 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes [offset, offset + size) of a file."""

    path: str
    offset: int
    size: int


def marks_of(run: Path, outer_steps: int) -> Marks:
    """Return how far the run has come, at `outer_steps`; of files that grow, in whole lines."""
    sizes = {mark: whole_lines_size(run / path) for mark, path in GROWING.items()}
    return Marks(outer_steps=outer_steps, **sizes)


def first_to_pack(records: list[Record], more: int) -> int:
    """Return from which of `records` on to pack all again, with `more` bytes that are new.

    One is taken in that is not much larger than what follows it, so there are few of them, and
    each byte is copied a few times only.
    """
    first = len(records)
    while first and records[first - 1].size <= 2 * more <= MERGED_UP_TO:
        first -= 1
        more += records[first].size
    return first


def parts_between(run: Path, first: Marks, last: Marks) -> list[Part]:
    """Return what was put on record between the marks, in a fixed order."""
    parts = []
    for mark, path in GROWING.items():
        begin, end = getattr(first, mark), getattr(last, mark)
        if end > begin:
            parts.append(Part(path, begin, end - begin))
    for step in range(first.outer_steps, last.outer_steps):
        partition = run / "trajectories" / f"meta_step={step:06d}"
        for file in sorted(partition.glob("part-*.parquet")):
            parts.append(Part(file.relative_to(run).as_posix(), 0, file.stat().st_size))
    return parts


def packed(run: Path, parts: Sequence[Part]) -> Iterator[bytes]:
    """Yield the record of `parts`, in blocks; OSError if a file is shorter than it was."""
    table = json.dumps([asdict(part) for part in parts]).encode()
    yield LENGTH.pack(len(table)) + table
    for part in parts:
        with (run / part.path).open("rb") as file:
            file.seek(part.offset)
            left = part.size
            while left:
                block = file.read(min(left, BLOCK))
                if not block:
                    raise OSError(f"{run / part.path}: is shorter than it was")
                left -= len(block)
                yield block


def unpack(blocks: Iterator[bytes], folder: Path) -> None:
    """Write the parts of a record to `folder`; what grows is appended to.

    Raises:
        DamagedCopyError: It is no record, or names what is not in a run's folder.
    """
    source = _Source(blocks)
    (length,) = LENGTH.unpack(source.take(LENGTH.size))
    if length > MAX_TABLE_BYTES:
        raise DamagedCopyError(f"a record's table of {length} bytes")
    for part in _table(source.take(length)):
        target = folder / check_path(part.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            file: IO[bytes] = stack.enter_context(target.open("ab"))
            if part.path not in GROWING.values():
                file.truncate(0)
            for block in source.stretch(part.size):
                file.write(block)
    if source.rest():
        raise DamagedCopyError("a record is longer than its table says")


class _Source:
    """Bytes of a stream, as many at a time as are wanted."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = b""

    def stretch(self, size: int) -> Iterator[bytes]:
        while size:
            block = self._held or next(self._blocks, b"")
            if not block:
                raise DamagedCopyError("a record is shorter than its table says")
            taken, self._held = block[:size], block[size:]
            size -= len(taken)
            yield taken

    def take(self, size: int) -> bytes:
        return b"".join(self.stretch(size))

    def rest(self) -> bytes:
        return self._held or next(self._blocks, b"")


def _table(data: bytes) -> list[Part]:
    try:
        parts = [Part(**one) for one in json.loads(data)]
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedCopyError(f"a record's table: {error!r:.80}") from None
    for part in parts:
        grows = check_path(part.path) in GROWING.values()
        if not (grows or part.path.startswith("trajectories/")) or not is_count(part.size):
            raise DamagedCopyError(f"a record of {part.path!r:.80}")
    return parts
