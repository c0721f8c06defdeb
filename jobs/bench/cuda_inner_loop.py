"""The same inner loop on a GPU: its speed, and its outer gradient against the CPU's."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from algorithms import TRAJECTORY_LEARNERS, InnerLoop, InnerOptimizer, ParameterVector
from algorithms.models.conv import ConvNet
from jobs.bench.parts import make_loop
from pipeline.config import Experiment
from pipeline.data.alphabets import SIDE

NUM_CHECKED_STEPS = 5


class FixedMinibatches:
    """A Task over given float64 inputs [K + 1, B, 1, S, S] and labels [K + 1, B]."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self._inputs, self._labels = inputs, labels

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the mean cross-entropy on minibatch `step`."""
        return cross_entropy(model(self._inputs[step]), self._labels[step])

    def training_metrics(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return nothing: there is no held-out data."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the step alone says where the task stands."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


def cuda_figures(experiment: Experiment, num_steps: int = 100, repeats: int = 5) -> dict[str, Any]:
    """Return inner steps a second on one GPU, and how far its outer gradient is from the CPU's."""
    loop = make_loop(experiment, "cuda")
    loop.run(num_steps)  # chooses kernels
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        loop.run(num_steps)  # waits for the device at its end
        rates.append(num_steps / (time.perf_counter() - start))
    on_cpu = outer_gradient(experiment, "cpu")
    on_cuda = outer_gradient(experiment, "cuda").cpu()
    return {
        "device": torch.cuda.get_device_name(),
        "inner_steps_per_s": median(rates),
        "outer_gradient_relative_error": float((on_cuda - on_cpu).norm() / on_cpu.norm()),
        "cuda_graphs": "not run: not built yet",
    }


def outer_gradient(experiment: Experiment, device: str) -> Tensor:
    """Return the outer gradient [P] of a few inner steps in float64, on fixed random data."""
    config = experiment.task
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_CHECKED_STEPS + 1, config.batch_size)
    inputs = torch.rand(*shape, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    labels = torch.randint(config.num_ways, shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ConvNet(config.num_ways, num_filters=experiment.model.num_filters).double()
    vector = ParameterVector(model, dtype=torch.float64, device=device)
    learner = TRAJECTORY_LEARNERS[experiment.algorithm.name](**experiment.algorithm.options)
    loop = InnerLoop(
        model,
        vector,
        FixedMinibatches(inputs.to(device), labels.to(device)),
        InnerOptimizer(lr=experiment.inner.lr),
        learner.start(vector.values),
    )
    loop.run(NUM_CHECKED_STEPS)
    gradient = loop.finish()
    assert gradient is not None
    return gradient
