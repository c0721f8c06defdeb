"""Which copies of a run there are, whose they are, and which the run in a folder has part in.

A folder goes on with what it was copied to, or fetched from: `.copied.json` in it says so. A copy
that someone else made later is newer than the folder.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from pipeline.copy_manifest import (
    COPIES,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    CopyManifest,
    DamagedCopyError,
    decode,
)
from pipeline.copy_owner import read_owner
from pipeline.files import read_object, write_atomic
from pipeline.storage import DamagedObjectError, Storage

MAX_MANIFESTS = 1000  # checkpoint.keep, and a few
MAX_BYTES_OF_MANIFESTS = 256 << 20
KNOWN = ".copied.json"  # in the run's folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """Which copies a run's folder has part in."""

    number: int = 0  # of the copy that it last made, or was fetched from
    writers: frozenset[str] = frozenset()  # who made copies on its way
    damaged: frozenset[str] = frozenset()  # objects that were found so when it was fetched


class ElsewhereError(Exception):
    """Another process goes on with this run, or did; the message says which and where."""


def read_manifests(storage: Storage) -> list[CopyManifest]:
    """Return the manifests of the copies that are there, by number; warn of what is damaged.

    Of more than there can be of one run, the newest.
    """
    found: list[CopyManifest] = []
    left = MAX_BYTES_OF_MANIFESTS
    sizes = {name: n for name, n in storage.sizes(COPIES).items() if MANIFEST_NAME.fullmatch(name)}
    for name in sorted(sizes, key=_number, reverse=True)[:MAX_MANIFESTS]:
        left -= sizes[name]
        if left < 0 and found:
            break
        try:
            found.append(decode(name, storage.read(name, MAX_MANIFEST_BYTES)))
        except (DamagedCopyError, DamagedObjectError, FileNotFoundError) as error:
            logger.warning("a copy of this run is damaged and passed over: %s", error)
    return found[::-1]


def _number(name: str) -> int:
    match = MANIFEST_NAME.fullmatch(name)
    return int(match[1]) if match else 0


def check_owner(storage: Storage, writer: str = "") -> None:
    """Raise ElsewhereError while someone other than `writer` is at work on the run."""
    owner = read_owner(storage)
    if owner is None or owner.writer == writer or not (left_s := owner.blocks_for_s()):
        return
    raise ElsewhereError(
        f"is at work in process {owner.pid} on {owner.host}; if that one is lost, try again in "
        f"{left_s:.0f} s, or at once with --take-over"
    )


def is_newer(manifest: CopyManifest, run: Path, outer_steps: int) -> bool:
    """Tell whether someone went on with the run, after it was last copied from this folder."""
    known = read_known(run)
    if not known.writers:  # it was never copied from here
        return manifest.step > outer_steps
    return manifest.number > known.number and manifest.writer not in known.writers


def read_known(run: Path) -> Known:
    """Return what `write_known` wrote; nothing of a folder that has to do with no copy."""
    try:
        tree = read_object(run / KNOWN)
        texts = (frozenset(map(str, tree[key])) for key in ("writers", "damaged"))
        return Known(int(tree["number"]), *texts)
    except (OSError, ValueError, TypeError, KeyError):
        return Known()


def write_known(run: Path, known: Known) -> None:
    """Keep `known` in the run's folder."""
    texts = {"writers": sorted(known.writers), "damaged": sorted(known.damaged)}
    write_atomic(run / KNOWN, json.dumps({"number": known.number, **texts}).encode())
