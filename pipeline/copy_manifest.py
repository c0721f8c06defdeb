"""What a copy of a run consists of, and under which names it lies in the storage.

    <copy_to>/<run id>/
        owner.json                                  pipeline.copy_owner
        copies/00000042.json                        a manifest: a copy counts once it is there
        files/<path in the run's folder>.<checksum> a file as it was; of the same content only one
        records/<first>-<last>.<checksum>           pipeline.copy_records

A name carries the checksum of the content, so nothing that a copy names is ever written again with
other content; whatever dies halfway leaves the copies before as they were. Nothing that is read
here is trusted: paths, sizes and types are checked, and there is nothing that could be a link.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.errors import BadInputError
from pipeline.files import sha256_json

FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20
MAX_DEPTH = 6
MAX_HOST_CHARACTERS = 100
COPIES = "copies"
FILES = "files"
RECORDS = "records"
MANIFEST_NAME = re.compile(r"copies/(\d{8,18})\.json")
SHA256 = re.compile(r"[0-9a-f]{64}")
WRITER = re.compile(r"[0-9a-f]{16}")
CHECKPOINT_FILE = re.compile(r"checkpoints/step-(\d{6,18})/[^/]+")
# A part of a path: of nothing that is hidden, or means another folder.
PART = re.compile(r"[\w=,+-][\w.=,+ -]{0,199}")
IN_A_RUN = (
    "config.yaml", "summary.json", "log.txt", "checkpoints", "trajectories", "in_flight",
    "snapshots", "evaluation", "plots", "videos", "tracking",
)  # fmt: skip


class DamagedCopyError(Exception):
    """A copy, or a part of one, is torn or was tampered with; the message says which and how."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the run's folder."""

    path: str  # within it, with slashes
    size: int
    sha256: str

    @property
    def object_name(self) -> str:
        """Where it lies in the storage."""
        return f"{FILES}/{self.path}.{self.sha256[:16]}"


@dataclass(frozen=True, slots=True)
class Marks:
    """How far what only grows has grown."""

    outer_steps: int = 0  # trajectories of the outer steps before this one
    log: int = 0  # bytes of log.txt, whole lines
    metrics: int = 0  # bytes of tracking/metrics.jsonl, whole lines

    def within(self, other: Marks) -> bool:
        """Tell whether nothing has grown further than in `other`."""
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return all(mine <= theirs for mine, theirs in pairs)


@dataclass(frozen=True, slots=True)
class Record:
    """What was put on record between two marks, in one object."""

    first: Marks
    last: Marks
    size: int
    sha256: str

    @property
    def object_name(self) -> str:
        """Where it lies in the storage."""
        span = f"{self.first.outer_steps:06d}-{self.last.outer_steps:06d}"
        return f"{RECORDS}/{span}.{self.sha256[:16]}"


@dataclass(frozen=True, slots=True)
class CopyManifest:
    """One copy. Its records follow on each other from the run's beginning."""

    number: int  # of the copies of a run, from 1 on
    step: int  # outer steps in its checkpoint; 0 with no checkpoint among `files`: none yet
    writer: str  # a random name of the process that made it
    host: str
    config: str  # of config.yaml: all copies share that file, and could lose it at once
    files: tuple[FileEntry, ...]
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """Where it lies in the storage."""
        return f"{COPIES}/{self.number:08d}.json"

    @property
    def parts(self) -> tuple[FileEntry | Record, ...]:
        """All objects that it is made of."""
        return (*self.files, *self.records)

    def encode(self) -> bytes:
        """Return it as JSON, with a checksum."""
        body = json.loads(json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}))
        return json.dumps({**body, "sha256": sha256_json(body)}).encode()


def decode(name: str, data: bytes) -> CopyManifest:
    """Return the manifest that lay at `name`.

    Raises:
        DamagedCopyError: It is torn, or says what no manifest of ours says.
        BadInputError: It is sound, but in a format that this version does not know.
    """
    try:
        body = json.loads(data)
        if not isinstance(body, dict) or body.pop("sha256", None) != sha256_json(body):
            raise DamagedCopyError(f"{name}: wrong checksum")
        if (version := body.pop("format_version", None)) != FORMAT_VERSION:
            raise BadInputError(
                f"{name}: copy format {version!r:.40}; this version of outerloop reads format "
                f"{FORMAT_VERSION}: install the version that wrote it"
            )
        files = tuple(FileEntry(**one) for one in body.pop("files"))
        records = tuple(_record(one) for one in body.pop("records"))
        manifest = CopyManifest(**body, files=files, records=records)
    except BadInputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedCopyError(f"{name}: is no manifest of a copy: {error!r:.80}") from None
    _check(name, manifest)
    return replace(manifest, host=shown(manifest.host))


def check_path(path: Any) -> str:
    """Return `path` if it names something in a run's folder; DamagedCopyError otherwise."""
    parts = path.split("/") if isinstance(path, str) else [""]
    fine = all(PART.fullmatch(part) for part in parts) and len(parts) <= MAX_DEPTH
    if not fine or parts[0] not in IN_A_RUN:
        raise DamagedCopyError(f"{path!r:.80} is no path in a run's folder")
    return str(path)


def shown(host: str) -> str:
    """Return the name of a machine as it can be shown, whoever gave it: short and harmless."""
    return "".join(char if char.isprintable() else "?" for char in host[:MAX_HOST_CHARACTERS])


def is_count(value: Any) -> bool:
    """Tell whether `value` is a number of bytes or steps that can be."""
    return type(value) is int and 0 <= value < 1 << 60


def _record(tree: Mapping[str, Any]) -> Record:
    first, last = Marks(**tree["first"]), Marks(**tree["last"])
    return Record(**{**tree, "first": first, "last": last})


def _check(name: str, manifest: CopyManifest) -> None:
    numbers = [manifest.number, manifest.step]
    for one in manifest.parts:
        numbers.append(one.size)
        if not (isinstance(one.sha256, str) and SHA256.fullmatch(one.sha256)):
            raise DamagedCopyError(f"{name}: {one.sha256!r:.40} is no checksum")
    paths = [check_path(one.path) for one in manifest.files]
    folders = {path[:end] for path in paths for end in _slashes(path)}
    if len(set(paths)) < len(paths) or not folders.isdisjoint(paths):
        raise DamagedCopyError(f"{name}: names a file twice, or as a folder")
    here = Marks()
    for record in manifest.records:
        numbers += asdict(record.last).values()
        if record.first != here:
            raise DamagedCopyError(f"{name}: its records do not follow on each other")
        here = record.last
    if not all(map(is_count, numbers)):
        raise DamagedCopyError(f"{name}: a number in it cannot be")
    by_name = MANIFEST_NAME.fullmatch(name)
    if by_name is None or int(by_name[1]) != manifest.number:
        raise DamagedCopyError(f"{name}: is that of another copy")
    texts = (manifest.writer, manifest.host, manifest.config)
    if not all(isinstance(text, str) for text in texts) or not WRITER.fullmatch(manifest.writer):
        raise DamagedCopyError(f"{name}: does not say who made it, or of what")


def _slashes(path: str) -> list[int]:
    return [place for place, char in enumerate(path) if char == "/"]
