"""Inner loops: trains on a task and streams its trajectory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from algorithms.inner_loop import InnerLoop, StepRecords
from pipeline.aggregator import Array
from pipeline.config import Experiment
from pipeline.errors import EnvironmentFailedError
from pipeline.learners import inner_optimizer, trajectory_learner
from pipeline.messages import TRAJECTORY_SCHEMA, Segment, TaskSpec
from pipeline.seeding import derive_seed
from pipeline.tasks import task_family
from pipeline.worker import Worker

# Figures of reinforcement learning that a trajectory keeps, in the order of its columns.
AGENT_COLUMNS = ("env_steps", "episode_return", "episode_length", "entropy")


class TrajectoryWorker(Worker):
    """Runs inner loops, which a meta-learner folds into outer gradients."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.family = task_family(experiment, self.device)
        self.learner = trajectory_learner(experiment)

    def run(self, spec: TaskSpec, params: Sequence[Array]) -> Iterator[Segment]:
        """Train on the task from `params` and yield its segments in order.

        A task whose environment fails ends there, in a segment that says so.
        """
        loop, num_steps = self.begin(spec, params), self.family.num_steps(spec)
        try:
            while True:
                yield (segment := self._segment(spec, loop, num_steps))
                if segment.final:
                    return
        except EnvironmentFailedError as error:
            yield self._failed(spec, loop.step, str(error))

    def begin(self, spec: TaskSpec, params: Sequence[Array]) -> InnerLoop:
        """Return the inner loop on the task from `params`, before its first step."""
        self._load(spec, params)
        train = spec.purpose == "train"
        num_shared = self.vector.size if self.layout.num_heads else self.layout.body
        return InnerLoop(
            self.model,
            self.vector,
            self.family.make(spec.split, spec.task_id, self._task_seed(spec)),
            inner_optimizer(self.experiment, self.family.num_steps(spec)),
            fold=self.learner.start(self.vector.values[:num_shared]) if train else None,
            precision=self.precision,
            num_shared=num_shared,
        )

    def _task_seed(self, spec: TaskSpec) -> int:
        if spec.purpose == "train":
            return derive_seed(self.experiment.seed, "task", spec.meta_step, spec.index)
        # The same minibatches for every method and at every version.
        return derive_seed(self.experiment.seed, "evaluate", spec.task_id, spec.repeat)

    def _segment(self, spec: TaskSpec, loop: InnerLoop, num_steps: int) -> Segment:
        first = loop.step
        number = first // self.experiment.inner.segment_steps
        start = time.perf_counter()
        records = loop.run(min(self.experiment.inner.segment_steps, num_steps - first))
        wall_ms = 1e3 * (time.perf_counter() - start) / (loop.step - first)
        last = loop.step == num_steps
        metrics: dict[str, float] = {}
        pulled: Tensor | None = None
        if loop.fold is not None:
            pulled = loop.finish() if last else loop.fold.drain(loop.shared)
        elif last:
            metrics = loop.task.evaluate(self.model)
        finite = _all_finite(records, pulled)
        name = self.family.task_name(spec.split, spec.task_id)
        return Segment(
            spec=spec,
            number=number,
            # A held-out task that diverges is a result; one in meta-training ends here.
            final=last or (loop.fold is not None and not finite),
            finite=finite,
            task=name,
            rows=trajectory_rows(spec, name, first, records, wall_ms),
            pieces=() if pulled is None or not finite else self._pieces(spec, pulled),
            metrics=metrics,
        )

    def _failed(self, spec: TaskSpec, step: int, reason: str) -> Segment:
        return Segment(
            spec=spec,
            number=step // self.experiment.inner.segment_steps,
            final=True,
            finite=False,
            task=self.family.task_name(spec.split, spec.task_id),
            rows=pa.RecordBatch.from_pylist([], schema=TRAJECTORY_SCHEMA),
            pieces=(),
            metrics={},
            failure=reason,
        )


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


def _all_finite(records: StepRecords, pulled: Tensor | None) -> bool:
    figures = [records.loss, records.grad_norm] + ([] if pulled is None else [pulled])
    return all(bool(torch.isfinite(figure).all()) for figure in figures)
