"""Decoded data sets as Arrow IPC files, memory-mapped and shared by all processes of a node."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.data.alphabets import (
    SIDE,
    AlphabetSet,
    Images,
    content_digest,
    lay_out,
    shape_of,
)
from pipeline.errors import BadInputError
from pipeline.files import write_atomic

FORMAT_VERSION = 1


def cached(
    folder: Path, name: str, identity: str, decode: Callable[[], AlphabetSet]
) -> AlphabetSet:
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
            f"{folder}: cannot store the decoded data set {name}: {error.strerror}; "
            "set OUTERLOOP_CACHE to a folder that can be written"
        ) from None
    return read(path) or decoded


def read(path: Path) -> AlphabetSet | None:
    """Return the data set in `path` without copying its images; None if it is not whole."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            metadata = reader.schema.metadata or {}
            column = reader.get_batch(0).column(0)
        header_bytes = metadata[b"header"]
        if metadata[b"checksum"].decode() != hashlib.sha256(header_bytes).hexdigest():
            return None
        header = json.loads(header_bytes)
        images: Images = np.frombuffer(column.buffers()[1], dtype=np.uint8)
        images = images[: len(column) * SIDE * SIDE].reshape(len(column), SIDE, SIDE)
        alphabets = lay_out(header["alphabets"])
        if content_digest(alphabets, images) != header["digest"]:
            return None
    except (OSError, pa.ArrowException, LookupError, ValueError, TypeError):
        return None
    return AlphabetSet(
        name=header["name"],
        images=images,
        alphabets=alphabets,
        source=header["source"],
        licence=header["licence"],
        digest=header["digest"],
    )


def write(path: Path, dataset: AlphabetSet) -> None:
    """Write `dataset` to `path`: whole, or not at all."""
    header = json.dumps(
        {
            "name": dataset.name,
            "alphabets": shape_of(dataset.alphabets),
            "source": dataset.source,
            "licence": dataset.licence,
            "digest": dataset.digest,
        }
    ).encode()
    checksum = hashlib.sha256(header).hexdigest()
    pixels = pa.py_buffer(np.ascontiguousarray(dataset.images))
    kind = pa.binary(SIDE * SIDE)
    column = pa.Array.from_buffers(kind, len(dataset.images), [None, pixels])
    schema = pa.schema([("image", kind)], metadata={"header": header, "checksum": checksum})
    batch = pa.RecordBatch.from_arrays([column], schema=schema)

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, sink.getvalue().to_pybytes())
