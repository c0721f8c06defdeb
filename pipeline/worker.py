"""A task worker: turns outer parameters and a TaskSpec into a stream of segments.

A plain class; the Ray shell around it (`pipeline.actors`) only forwards calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from algorithms.baselines import initial_parameters
from algorithms.parameters import capture_buffers, restore_buffers
from pipeline.aggregator import Array
from pipeline.config import Experiment
from pipeline.errors import BadInputError
from pipeline.memory import keep_freed_memory
from pipeline.messages import Piece, Segment, TaskSpec
from pipeline.network import build_network, outer_layout
from pipeline.seeding import derive_seed
from pipeline.tasks import TaskFamily

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Worker(ABC):
    """Runs one task at a time on one device, with a fixed number of threads.

    A task's result is a function of the parameters and the spec alone: buffers (batch-norm
    statistics), the inner optimizer and every generator start anew.
    """

    family: TaskFamily

    def __init__(self, experiment: Experiment) -> None:
        keep_freed_memory()
        torch.set_num_threads(experiment.workers.threads)
        self.experiment = experiment
        self.device = choose_device(experiment.workers.device)
        self.precision = PRECISIONS[experiment.inner.precision]
        self._build_model()
        self.layout = outer_layout(experiment, self.vector)

    def _build_model(self) -> None:
        self.model, self.vector = build_network(self.experiment, self.device)
        self._buffers = capture_buffers(self.model)

    @abstractmethod
    def run(self, spec: TaskSpec, params: Sequence[Array]) -> Iterator[Segment]:
        """Do what `spec` says from `params` (one array a shard); yield its segments in order."""

    def prepare(self, spec: TaskSpec, params: Sequence[Array]) -> None:
        """Make the model what it is when the work of `spec` begins."""
        self._load(spec, params)

    def _load(self, spec: TaskSpec, params: Sequence[Array]) -> None:
        """Put the task's starting point into the model: parameters and initial buffers."""
        restore_buffers(self.model, self._buffers)
        if spec.method == "scratch":
            self.vector.load(initial_parameters(self.model, self._fresh_seed(spec)))
            return
        outer = params[0] if len(params) == 1 else np.concatenate(params)
        if self.layout.head and (spec.split != "train" or not self.layout.num_heads):
            # The task has no output layer that was trained before: it starts from a random one.
            local = initial_parameters(self.model, self._fresh_seed(spec))
            local[: self.layout.body] = torch.from_numpy(outer[: self.layout.body].copy())
            self.vector.load(local)
            return
        spans = self.layout.spans(spec.task_id)
        self.vector.load(np.concatenate([outer[s.outer : s.outer + s.length] for s in spans]))

    def _fresh_seed(self, spec: TaskSpec) -> int:
        """Return the seed of what a task starts from that was not learned."""
        if spec.purpose == "train":
            return derive_seed(self.experiment.seed, "local head", spec.meta_step, spec.index)
        return derive_seed(self.experiment.seed, "scratch", spec.task_id, spec.repeat)

    def _pieces(self, spec: TaskSpec, pulled: Tensor) -> tuple[tuple[Piece, ...], ...]:
        """Cut a part of the task's outer gradient [P] into each shard's share."""
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
