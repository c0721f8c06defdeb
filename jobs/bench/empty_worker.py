"""A worker whose inner loops are empty: what is left is what the pipeline itself costs.

It imports no torch, so that over a hundred of them fit on one machine.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from pipeline.messages import (
    BACKPRESSURE_SEGMENTS,
    TRAJECTORY_SCHEMA,
    Piece,
    Segment,
    TaskSpec,
)


class EmptyTaskServer:
    """Streams one segment for each task: a row, and an outer gradient that is always the same."""

    def __init__(self, bounds: Sequence[tuple[int, int]]) -> None:
        """Prepare the shares of shards that hold [first, last) of the outer vector each."""
        self._shares = [(first, np.full(last - first, 1e-3, np.float32)) for first, last in bounds]
        self._sent: deque[Segment] = deque(maxlen=BACKPRESSURE_SEGMENTS + 1)

    def ready(self) -> int:
        """Return the process id."""
        return os.getpid()

    @ray.method(num_returns="streaming", _generator_backpressure_num_objects=BACKPRESSURE_SEGMENTS)
    def run(self, spec: TaskSpec, params: Sequence[Any]) -> Iterator[Segment]:
        """Stream the task; the gradient goes through the object store, as a real one does."""
        pieces = tuple(
            (Piece(first, ray.put(values), len(values)),) for first, values in self._shares
        )
        row: dict[str, Any] = dict.fromkeys(TRAJECTORY_SCHEMA.names)
        row |= {"meta_step": spec.meta_step, "task": spec.index, "task_name": "empty"}
        row |= {"attempt": spec.attempt, "step": 0, "loss": 0.0, "grad_norm": 0.0}
        row |= {"path_length": 0.0, "lr": 0.0, "wall_ms": 0.0}
        rows = pa.RecordBatch.from_pylist([row], TRAJECTORY_SCHEMA)
        segment = Segment(spec, 0, True, True, "empty", rows, pieces, {"loss": 0.0})
        self._sent.append(segment)  # as of pipeline.actors
        yield segment


EmptyTaskActor: Any = ray.remote(max_restarts=0, max_task_retries=0)(EmptyTaskServer)
