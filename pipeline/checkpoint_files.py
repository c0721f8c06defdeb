"""What a checkpoint folder holds: shards in safetensors, and a manifest that vouches for them.

    manifest.json                      step, state, and for each shard its place, size and SHA-256
    shard-000000000000.safetensors     the outer vector from this offset on, with optimizer state

Nothing here is a pickle, and no name in a manifest can point outside its folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from pipeline.errors import BadInputError, RunFailedError
from pipeline.files import read_object, sha256_file, sha256_json, write_atomic

FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20
MANIFEST = "manifest.json"
PARAMS = "params"
OPTIMIZER_PREFIX = "optimizer."
SHARD_NAME = re.compile(r"shard-\d{12,20}\.safetensors")

Array = np.ndarray[Any, np.dtype[Any]]


class DamagedCheckpointError(Exception):
    """The checkpoint is torn or corrupt; the message says where."""


@dataclass(frozen=True, slots=True)
class ShardFile:
    """What the writer of a shard vouches for; travels from the writing process to the store."""

    name: str
    offset: int  # of its first element in the flat outer vector
    length: int  # in elements
    size: int  # in bytes
    sha256: str  # of the bytes that were meant to reach the disk


@dataclass(frozen=True, slots=True)
class Manifest:
    """The verified manifest of a checkpoint."""

    step: int
    shards: tuple[ShardFile, ...]  # by offset
    meta: dict[str, Any]


def write_shard(
    folder: Path, offset: int, params: Array, optimizer: Mapping[str, Array]
) -> ShardFile:
    """Write a shard into the folder of a draft; may run in any process that shares its disk.

    Args:
        folder: `Draft.folder`.
        offset: Place of the shard's first element in the flat outer vector.
        params: Outer parameters of the shard, float32 [n].
        optimizer: State of its outer optimizer, each an array [n], or [] for a counter that is
            the same in all shards.

    Raises:
        OSError: The file cannot be written.
    """
    if params.dtype != np.float32 or params.ndim != 1:
        raise ValueError(f"params: expected float32 [n], got {params.dtype} {params.shape}")
    # Not np.ascontiguousarray, which would turn a counter into a vector of one element.
    tensors = {OPTIMIZER_PREFIX + k: np.asarray(v, order="C") for k, v in optimizer.items()}
    for name, array in tensors.items():
        if array.shape not in ((), params.shape):
            raise ValueError(f"{name}: shape {array.shape} in a shard of {params.shape}")
    data = safetensors.numpy.save({PARAMS: np.asarray(params, order="C"), **tensors})
    name = f"shard-{offset:012d}.safetensors"
    write_atomic(folder / name, data)
    return ShardFile(name, offset, len(params), len(data), hashlib.sha256(data).hexdigest())


def write_manifest(
    folder: Path, step: int, shards: Sequence[ShardFile], meta: Mapping[str, Any]
) -> None:
    """Write the manifest of the checkpoint in `folder`; `meta` is anything that JSON can hold."""
    body = {"step": step, "shards": [asdict(shard) for shard in shards], "meta": meta}
    # Through JSON once, as the checksum is of what a reader sees: string keys, lists.
    manifest = json.loads(json.dumps({"format_version": FORMAT_VERSION, **body}))
    data = json.dumps({**manifest, "sha256": sha256_json(manifest)}, indent=1).encode()
    if len(data) > MAX_MANIFEST_BYTES:
        raise RunFailedError(
            f"{folder}: {len(data)} bytes of state; a manifest has at most {MAX_MANIFEST_BYTES}"
        )
    write_atomic(folder / MANIFEST, data)


def verify(folder: Path) -> Manifest:
    """Check every byte of the checkpoint in `folder` and return its manifest.

    Raises:
        DamagedCheckpointError: Something is missing, torn or changed.
        BadInputError: It is sound, but in a format that this version does not know.
    """
    content = _read_manifest(folder / MANIFEST)
    try:
        shards = sorted((_shard_file(s) for s in content["shards"]), key=lambda s: s.offset)
        manifest = Manifest(_whole(content["step"]), tuple(shards), dict(content["meta"]))
        offsets = np.cumsum([0] + [shard.length for shard in shards])[:-1]
        whole = len(shards) > 0 and [shard.offset for shard in shards] == list(offsets)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedCheckpointError(f"{MANIFEST}: {error!r:.120}") from None
    if not whole:
        raise DamagedCheckpointError("its shards do not make one whole vector")
    for shard in shards:
        _verify_shard(folder, shard)
    return manifest


def read_vectors(folder: Path, shards: Sequence[ShardFile]) -> tuple[Array, dict[str, Array]]:
    """Return the parameters [P] and the optimizer's state of verified `shards`, joined."""
    joined = _join([_read_shard(folder, shard) for shard in shards])
    params = joined.pop(PARAMS)
    return params, {name.removeprefix(OPTIMIZER_PREFIX): a for name, a in joined.items()}


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        if path.is_symlink():
            raise DamagedCheckpointError(f"{path.name}: is no file")
        manifest = read_object(path, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        raise DamagedCheckpointError(f"{path.name}: is missing") from None
    except ValueError as error:
        raise DamagedCheckpointError(f"{path.name}: {error}") from None
    if sha256_json(manifest) != manifest.get("sha256"):
        raise DamagedCheckpointError(f"{path.name}: wrong checksum")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise BadInputError(
            f"{path}: checkpoint format {version!r:.40}; this version of outerloop reads format "
            f"{FORMAT_VERSION}: install the version that wrote it"
        )
    return manifest


def _shard_file(fields: Mapping[str, Any]) -> ShardFile:
    """Return what a manifest says of a shard; ValueError or TypeError if that cannot be."""
    shard = ShardFile(**fields)
    for count in (shard.offset, shard.length, shard.size):
        _whole(count)
    return shard


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r:.40} is no number of elements, bytes or steps")
    return number


def _verify_shard(folder: Path, shard: ShardFile) -> None:
    if not SHARD_NAME.fullmatch(str(shard.name)):
        raise DamagedCheckpointError(f"{MANIFEST}: {shard.name!r:.40} is no name of a shard")
    path = folder / shard.name
    if path.is_symlink() or not path.is_file() or path.stat().st_size != shard.size:
        raise DamagedCheckpointError(f"{shard.name}: missing, or not of {shard.size} bytes")
    if sha256_file(path) != shard.sha256:
        raise DamagedCheckpointError(f"{shard.name}: wrong checksum")


def _read_shard(folder: Path, shard: ShardFile) -> dict[str, Array]:
    try:
        tensors: dict[str, Array] = safetensors.numpy.load_file(folder / shard.name)
    # Types that numpy has not are told of as errors of many kinds.
    except (safetensors.SafetensorError, TypeError, AttributeError, ValueError) as error:
        raise DamagedCheckpointError(f"{shard.name}: {error}") from None
    params = tensors.get(PARAMS)
    if params is None or params.dtype != np.float32 or params.shape != (shard.length,):
        raise DamagedCheckpointError(f"{shard.name}: not {shard.length} float32 parameters")
    for name, tensor in tensors.items():
        if tensor.shape not in ((), params.shape):
            raise DamagedCheckpointError(f"{shard.name}: '{name}' has the shape {tensor.shape}")
    return tensors


def _join(shards: list[dict[str, Array]]) -> dict[str, Array]:
    """Concatenate vectors in the order of `shards`; counters have to agree."""
    if any(shard.keys() != shards[0].keys() for shard in shards):
        raise DamagedCheckpointError("its shards hold different state")
    joined: dict[str, Array] = {}
    for name, first in shards[0].items():
        parts = [shard[name] for shard in shards]
        counter = first.ndim == 0
        if any(part.ndim != first.ndim or part.dtype != first.dtype for part in parts):
            raise DamagedCheckpointError(f"its shards hold '{name}' in different forms")
        if counter and any(part != first for part in parts):
            raise DamagedCheckpointError(f"its shards do not agree on '{name}'")
        joined[name] = first if counter else np.concatenate(parts)
    return joined
