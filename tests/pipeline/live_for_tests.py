"""Segments as workers stream them, without a worker."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from algorithms.inner_loop import StepRecords
from pipeline.messages import TRAJECTORY_SCHEMA, Segment, TaskSpec
from pipeline.task_rows import trajectory_rows


def spec(index=0, meta_step=0, attempt=0, **others):
    return TaskSpec(meta_step, index, index, "train", meta_step, attempt, **others)


def segment(
    spec, first, count, task="pong", final=False, wall_ms=10.0, loss=1.0, returns=None, failure=""
):
    """A segment of `count` inner steps from `first` on; four env steps each where `returns` are."""
    figures = {}
    if returns is not None:
        env_steps = 4.0 * np.arange(first + 1, first + count + 1)
        figures = {
            "env_steps": torch.from_numpy(env_steps),
            "episode_return": torch.tensor(returns, dtype=torch.float32),
        }
    steps = torch.full((count,), loss)
    records = StepRecords(steps, torch.full((count,), torch.nan), steps, steps, steps, figures)
    rows = trajectory_rows(spec, task, first, records, wall_ms)
    if not count:
        rows = pa.RecordBatch.from_pylist([], schema=TRAJECTORY_SCHEMA)
    return Segment(spec, first // 10, final, not failure, task, rows, (), {}, failure)
