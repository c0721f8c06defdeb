"""Ray shells around Worker and AggregatorShard: transport here, arithmetic there."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from pipeline.aggregator import AggregatorShard, Array, Commit, ShardUpdate
from pipeline.checkpoint_files import ShardFile
from pipeline.config import Experiment
from pipeline.messages import BACKPRESSURE_SEGMENTS, Piece, Segment, TaskKey, TaskSpec
from pipeline.server import Start, build_shard, restored_shard, state_of, write_shard_of
from pipeline.workers import make_worker


class TaskServer:
    """Runs tasks; gradient slices go to the object store, only their references to the driver."""

    def __init__(self, experiment: Experiment) -> None:
        self._params: tuple[list[str], list[Array]] = ([], [])  # by the references they came from
        self._sent: deque[Segment] = deque(maxlen=BACKPRESSURE_SEGMENTS + 1)
        # Ray tells of an error in a constructor as text alone; `ready` raises it as it is.
        self._failure: Exception | None = None
        try:
            self._worker = make_worker(experiment)
        except Exception as error:
            self._failure = error

    def ready(self) -> int:
        """Answer once the worker stands: its process id. Raise what kept it from standing."""
        if self._failure is not None:
            raise self._failure
        return os.getpid()

    @ray.method(num_returns="streaming", _generator_backpressure_num_objects=BACKPRESSURE_SEGMENTS)
    def run(self, spec: TaskSpec, params: Sequence[Any]) -> Iterator[Segment]:
        """Stream the task's segments; `params` are references, one a shard."""
        names = [reference.hex() for reference in params]
        if self._params[0] != names:
            published: list[Published] = ray.get(list(params))
            self._params = (names, [one.arrays["params"] for one in published])
        for segment in self._worker.run(spec, self._params[1]):
            sent = replace(segment, pieces=tuple(_put(share) for share in segment.pieces))
            # Until the shards have fetched them, whatever the driver does with its references.
            self._sent.append(sent)
            yield sent


def _put(share: Sequence[Piece]) -> tuple[Piece, ...]:
    """Replace values by references; `put` keeps even small ones out of the driver's replies."""
    return tuple(replace(piece, values=ray.put(piece.values)) for piece in share)


class AggregatorServer:
    """Holds one shard; what stands after an outer step goes to the object store, for the driver."""

    def __init__(self) -> None:
        self._shard: AggregatorShard

    @ray.method(num_returns=3)
    def start(self, experiment: Experiment, number: int, start: Start) -> tuple[int, Any, Any]:
        """Build the shard; return its version and what `commit` does.

        Not the constructor: Ray tells of an error there as text alone.
        """
        self._shard = build_shard(experiment, number, start)
        return self._shard.version, *self._published()

    def restore(
        self, experiment: Experiment, number: int, params: Published, state: Published
    ) -> int:
        """Build the shard that another actor held, from what it published; return its version."""
        self._shard = restored_shard(experiment, number, params.arrays["params"], state.arrays)
        return self._shard.version

    def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    def fold(self, spec: TaskSpec, part: int, share: Sequence[Piece]) -> None:
        """Fetch and fold one segment's slices; slices that died with their worker are lost."""
        try:
            arrays = ray.get([piece.values for piece in share])
        except RayError:
            self._shard.fold(spec, part, None)
            return
        offsets = [piece.offset for piece in share]
        self._shard.fold(spec, part, list(zip(offsets, arrays, strict=True)))

    def missing(self, commit: Commit) -> list[TaskKey]:
        """Forward."""
        return self._shard.missing(commit)

    @ray.method(num_returns=3)
    def commit(self, commit: Commit) -> tuple[ShardUpdate, Any, Any]:
        """Take the outer step; return it, the new parameters and the rest, by reference."""
        return self._shard.commit(commit), *self._published()

    def _published(self) -> tuple[Published, Published]:
        params = self._shard.params.numpy()
        return Published({"params": params}), Published(state_of(self._shard))

    def write_checkpoint(self, folder: Path, version: int) -> ShardFile:
        """Forward."""
        return write_shard_of(self._shard, folder, version)


class Published:
    """Arrays that Ray is to keep in the object store, though they are return values.

    Return values are the caller's: they outlast the process that made them. But small ones travel
    within Ray's replies, and the driver would hold them itself; these are never small.
    """

    NEVER_SMALL = 1 << 17  # bytes; Ray's limit is 100 KiB

    def __init__(self, arrays: dict[str, Any]) -> None:
        size = sum(array.nbytes for array in arrays.values())
        self.arrays = arrays
        self._filling = np.zeros(max(0, self.NEVER_SMALL - size), np.uint8)


# A restarted actor would come back empty and say nothing: the driver replaces actors itself.
TaskActor: Any = ray.remote(max_restarts=0, max_task_retries=0)(TaskServer)
AggregatorActor: Any = ray.remote(max_restarts=0, max_task_retries=0, num_cpus=0)(AggregatorServer)
