"""Decoded data sets as Arrow IPC files, memory-mapped and shared by all processes of a node."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.data.alphabets import AlphabetSet, Images
from pipeline.data.image_classes import ImageClasses
from pipeline.errors import BadInputError
from pipeline.files import sync_file, sync_folder, temporary_beside

FORMAT_VERSION = 1

Decoded = AlphabetSet | ImageClasses


def cached(folder: Path, name: str, identity: str, decode: Callable[[], Decoded]) -> Decoded:
    """Return the data set from `folder`, decoding and storing it first where it is not there.

    A file that is torn or altered is made anew. Processes that decode at the same time each
    write a file of their own; the last rename wins, with the same content.

    Args:
        folder: Cache folder; made where it does not exist.
        name: Of the data set.
        identity: What the decoded content depends on: source archives, decoder version.
        decode: Makes the data set from its source.
    """
    key = hashlib.sha256(f"{FORMAT_VERSION}\n{identity}".encode()).hexdigest()[:16]
    path = folder / f"{name}-{key}.arrow"
    found = read(path)
    if found is not None:
        return found
    decoded = decode()
    try:
        write(path, decoded)
    except OSError as error:
        raise BadInputError(
            f"{folder}: cannot store the decoded data set {name}: {error.strerror or error}; "
            "set OUTERLOOP_CACHE to a folder that can be written"
        ) from None
    return read(path) or decoded


def read(path: Path) -> Decoded | None:
    """Return the data set in `path` without copying its images; None if it is not whole."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            metadata = reader.schema.metadata or {}
            column = reader.get_batch(0).column(0)
        header_bytes = metadata[b"header"]
        if metadata[b"checksum"].decode() != hashlib.sha256(header_bytes).hexdigest():
            return None
        header = json.loads(header_bytes)
        pixels: Images = np.frombuffer(column.buffers()[1], dtype=np.uint8)
        pixels = pixels[: len(column) * column.type.byte_width]
        kind = ImageClasses if "classes" in header else AlphabetSet
        return kind.restore(header, pixels)
    except (OSError, pa.ArrowException, LookupError, ValueError, TypeError):
        return None


def write(path: Path, dataset: Decoded) -> None:
    """Write `dataset` to `path`: whole, or not at all."""
    header = json.dumps(dataset.header()).encode()
    checksum = hashlib.sha256(header).hexdigest()
    pixels = pa.py_buffer(np.ascontiguousarray(dataset.images))
    kind = pa.binary(int(np.prod(dataset.images.shape[1:])))
    column = pa.Array.from_buffers(kind, len(dataset.images), [None, pixels])
    schema = pa.schema([("image", kind)], metadata={"header": header, "checksum": checksum})
    batch = pa.RecordBatch.from_arrays([column], schema=schema)

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:  # straight to disk: a data set can be as large as the memory that is left
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(batch)
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
