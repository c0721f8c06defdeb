"""CIFAR-100's official binary archive: records of fixed length, no pickle.

A record is a byte of the coarse label, one of the fine label, and 32 by 32 bytes each of red,
green and blue. Nothing is unpacked to disk.
"""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import numpy as np

from pipeline.data.alphabets import Images
from pipeline.errors import BadInputError

MAX_BYTES = 200 << 20  # of the archive; the official one has 168,513,733
SIDE = 32
RECORD_BYTES = 2 + 3 * SIDE * SIDE
RECORDS = {"cifar-100-binary/train.bin": 50_000, "cifar-100-binary/test.bin": 10_000}
NAMES = "cifar-100-binary/fine_label_names.txt"
MAX_NAMES_BYTES = 1 << 16


def check_archive(path: Path, classes: list[str]) -> None:
    """Raise BadInputError if `path` does not hold the records of `classes`."""
    read_archive(path, classes)


def read_archive(path: Path, classes: list[str]) -> Images:
    """Return uint8 [M, 32, 32, 3], sorted by class; BadInputError if `path` is not that archive."""
    contents = _contents(path)
    if contents[NAMES].decode("utf-8", "replace").split() != classes:
        raise BadInputError(f"{path}: {NAMES}: these are not CIFAR-100's classes")
    records = np.concatenate(
        [np.frombuffer(contents[name], np.uint8).reshape(-1, RECORD_BYTES) for name in RECORDS]
    )
    labels = records[:, 1]
    counts = np.bincount(labels, minlength=len(classes))
    if len(counts) > len(classes) or counts.min() != counts.max():
        raise BadInputError(f"{path}: expected as many images of each of {len(classes)} classes")
    order = np.argsort(labels, kind="stable")
    planes = records[order, 2:].reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _contents(path: Path) -> dict[str, bytes]:
    sizes = {name: num * RECORD_BYTES for name, num in RECORDS.items()}
    found: dict[str, bytes] = {}
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInputError(f"{path}: expected an archive of at most {MAX_BYTES} bytes")
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                if member.name not in (*sizes, NAMES):
                    continue  # other entries are passed over; nothing is unpacked by its name
                if member.name in found or not member.isreg():
                    raise BadInputError(f"{path}: entry {member.name} is a link or comes twice")
                if member.size != sizes.get(member.name, member.size) or (
                    member.name == NAMES and member.size > MAX_NAMES_BYTES
                ):
                    raise BadInputError(f"{path}: entry {member.name} has {member.size} bytes")
                file = archive.extractfile(member)
                found[member.name] = file.read() if file else b""
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise BadInputError(f"{path}: is no whole tar.gz archive ({error})") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror or error}") from None
    for name in (*sizes, NAMES):
        if len(found.get(name, b"")) < sizes.get(name, 1):
            raise BadInputError(f"{path}: entry {name} is missing or cut short")
    return found
