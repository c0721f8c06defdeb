"""A task worker: turns outer parameters and a TaskSpec into a stream of segments.

A plain class; the Ray shell around it (`pipeline.actors`) only forwards calls.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from algorithms import META_LEARNERS
from algorithms.baselines import initial_parameters
from algorithms.inner_loop import InnerLoop, InnerOptimizer, StepRecords
from algorithms.parameters import capture_buffers, restore_buffers
from pipeline.aggregator import Array
from pipeline.config import Experiment
from pipeline.errors import BadInputError
from pipeline.memory import keep_freed_memory
from pipeline.messages import TRAJECTORY_SCHEMA, Piece, Segment, TaskSpec
from pipeline.network import build_network, outer_layout
from pipeline.seeding import derive_seed
from pipeline.tasks import task_family

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TaskWorker:
    """Runs one task at a time on one device, with a fixed number of threads.

    A task's result is a function of the parameters and the spec alone: buffers (batch-norm
    statistics), the inner optimizer and every generator start anew.
    """

    def __init__(self, experiment: Experiment) -> None:
        keep_freed_memory()
        torch.set_num_threads(experiment.workers.threads)
        self.experiment = experiment
        self.device = choose_device(experiment.workers.device)
        self.family = task_family(experiment, self.device)
        self.model, self.vector = build_network(experiment, self.device)
        self.layout = outer_layout(experiment, self.vector)
        self.learner = META_LEARNERS[experiment.algorithm.name](**experiment.algorithm.options)
        self._buffers = capture_buffers(self.model)

    def run(self, spec: TaskSpec, params: Sequence[Array]) -> Iterator[Segment]:
        """Train on the task from `params` (one array a shard) and yield its segments in order."""
        self._load(spec, params)
        train = spec.purpose == "train"
        config = self.experiment.inner
        loop = InnerLoop(
            self.model,
            self.vector,
            self.family.make(spec.split, spec.task_id, self._task_seed(spec)),
            InnerOptimizer(config.optimizer, lr=config.lr, momentum=config.momentum),
            fold=self.learner.start(self.vector.values) if train else None,
            precision=PRECISIONS[config.precision],
        )
        num_steps = config.num_steps if train else self.experiment.evaluation.num_steps
        while True:
            yield (segment := self._segment(spec, loop, num_steps))
            if segment.final:
                return

    def _load(self, spec: TaskSpec, params: Sequence[Array]) -> None:
        """Put the task's starting point into the model: parameters and initial buffers."""
        restore_buffers(self.model, self._buffers)
        fresh_seed = derive_seed(self.experiment.seed, "scratch", spec.task_id, spec.repeat)
        if spec.method == "scratch":
            self.vector.load(initial_parameters(self.model, fresh_seed))
            return
        outer = params[0] if len(params) == 1 else np.concatenate(params)
        if self.layout.head and spec.split == "test":
            # A held-out task has no trained output layer: it starts from a random one.
            local = initial_parameters(self.model, fresh_seed)
            local[: self.layout.body] = torch.from_numpy(outer[: self.layout.body].copy())
            self.vector.load(local)
            return
        spans = self.layout.spans(spec.task_id)
        self.vector.load(np.concatenate([outer[s.outer : s.outer + s.length] for s in spans]))

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
            pulled = loop.finish() if last else loop.fold.drain(self.vector.values)
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
            rows=trajectory_rows(spec, name, first, records, self.experiment.inner.lr, wall_ms),
            pieces=() if pulled is None or not finite else self._pieces(spec, pulled),
            metrics=metrics,
        )

    def _pieces(self, spec: TaskSpec, pulled: Tensor) -> tuple[tuple[Piece, ...], ...]:
        values = pulled.detach().to("cpu", torch.float32).numpy()
        return tuple(
            tuple(
                replace(piece, values=values[local : local + piece.length])
                for local, piece in share
            )
            for share in self.layout.cut(spec.task_id)
        )


def choose_device(name: str) -> torch.device:
    """Return the device that `workers.device` names; `auto` takes a GPU where there is one.

    Raises BadInputError for a GPU that is not there.
    """
    num_gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if num_gpus else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise BadInputError(
            f"workers.device: '{name}': torch sees {num_gpus} GPU(s) here; set workers.device=cpu, "
            "or install a CUDA build of torch on a machine with one"
        )
    return device


def trajectory_rows(
    spec: TaskSpec, name: str, first_step: int, records: StepRecords, lr: float, wall_ms: float
) -> pa.RecordBatch:
    """Return a row of TRAJECTORY_SCHEMA for each inner step of `records`."""
    count = len(records.loss)
    error = pa.array(records.error.numpy())
    columns = [
        pa.array(np.full(count, spec.meta_step, np.int64)),
        pa.array(np.full(count, spec.index, np.int32)),
        pa.array([name] * count, pa.string()),
        pa.array(np.full(count, spec.attempt, np.int32)),
        pa.array(np.arange(first_step, first_step + count, dtype=np.int64)),
        pa.array(records.loss.numpy()),
        pa.array(error.to_numpy(), from_pandas=True),  # NaN becomes null
        pa.array(records.grad_norm.numpy()),
        pa.array(records.path_length.numpy()),
        pa.array(np.full(count, lr, np.float32)),
        pa.array(np.full(count, wall_ms, np.float32)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=TRAJECTORY_SCHEMA)


def _all_finite(records: StepRecords, pulled: Tensor | None) -> bool:
    figures = [records.loss, records.grad_norm] + ([] if pulled is None else [pulled])
    return all(bool(torch.isfinite(figure).all()) for figure in figures)
