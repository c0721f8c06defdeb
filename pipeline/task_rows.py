"""The rows of a trajectory: what inner steps have to say, as Arrow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from torch import Tensor

from algorithms.inner_loop import StepRecords
from pipeline.messages import TRAJECTORY_SCHEMA, TaskSpec

# Figures of reinforcement learning that a trajectory keeps, in the order of its columns.
AGENT_COLUMNS = ("env_steps", "episode_return", "episode_length", "entropy")


def trajectory_rows(
    spec: TaskSpec, name: str, first_step: int, records: StepRecords, wall_ms: float
) -> pa.RecordBatch:
    """Return a row of TRAJECTORY_SCHEMA for each inner step of `records`."""
    count = len(records.loss)
    columns = [
        pa.array(np.full(count, spec.meta_step, np.int64)),
        pa.array(np.full(count, spec.index, np.int32)),
        pa.array([name] * count, pa.string()),
        pa.array(np.full(count, spec.attempt, np.int32)),
        pa.array(np.arange(first_step, first_step + count, dtype=np.int64)),
        pa.array(records.loss.numpy()),
        _nullable("error", records.error, count),
        pa.array(records.grad_norm.numpy()),
        pa.array(records.path_length.numpy()),
        pa.array(records.lr.numpy()),
        pa.array(np.full(count, wall_ms, np.float32)),
        *(_nullable(name, records.figures.get(name), count) for name in AGENT_COLUMNS),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=TRAJECTORY_SCHEMA)


def _nullable(name: str, figures: Tensor | None, count: int) -> pa.Array:
    """Return the column `name` of `figures`, NaN as null; `count` nulls where there are none."""
    kind = TRAJECTORY_SCHEMA.field(name).type
    if figures is None:
        return pa.nulls(count, kind)
    return pa.array(figures.numpy(), from_pandas=True).cast(kind)
