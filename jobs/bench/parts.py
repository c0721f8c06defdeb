"""Where the time of an inner step goes, and what the hardware allows: one core, one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from algorithms import TRAJECTORY_LEARNERS, InnerLoop, InnerOptimizer
from pipeline.config import Experiment
from pipeline.memory import keep_freed_memory
from pipeline.network import build_network, initial_outer_parameters
from pipeline.tasks import task_family
from pipeline.worker import PRECISIONS

BLOCK = 10  # calls timed together
MATRIX_SIDE = 1024  # of the product that stands for the core's peak


def make_loop(experiment: Experiment, device: str = "cpu") -> InnerLoop:
    """Return the inner loop of the first meta-training task, from the initial parameters."""
    model, vector = build_network(experiment, device)
    vector.load(initial_outer_parameters(experiment))
    config = experiment.inner
    return InnerLoop(
        model,
        vector,
        task_family(experiment, torch.device(device)).make("train", 0, seed=0),
        InnerOptimizer(config.optimizer, lr=config.lr, momentum=config.momentum),
        TRAJECTORY_LEARNERS[experiment.algorithm.name](**experiment.algorithm.options).start(
            vector.values
        ),
        PRECISIONS[config.precision],
    )


def part_figures(experiment: Experiment, repeats: int = 15) -> dict[str, float]:
    """Return milliseconds of an inner step by part, and the bound that arithmetic sets.

    `bound_ms` is what the step's multiplications and additions would take at the rate of a large
    matrix product in the same precision. `rest_ms` is what the named parts leave of the step.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        keep_freed_memory()
        return _part_figures(experiment, repeats)
    finally:
        torch.set_num_threads(threads)


def _part_figures(experiment: Experiment, repeats: int) -> dict[str, float]:
    loop = make_loop(experiment)
    fold = loop.fold
    assert fold is not None
    task, vector, precision = loop.task, loop.vector, PRECISIONS[experiment.inner.precision]
    update = InnerOptimizer("sgd").start(vector)
    loss = torch.zeros(())
    parts = {
        "step": lambda: loop.run(BLOCK),
        "augmentation": _block(lambda: task.minibatch(loop.step)),  # type: ignore[attr-defined]
        "loss": _block(lambda: _backward(loop, precision)),
        "fold": _block(lambda: fold.observe(loss, vector.grads, vector.values)),
        # A rate of 0: it does its work but moves nothing.
        "update": _block(lambda: update.apply(torch.linalg.vector_norm(vector.grads), 0.0)),
    }
    ms = {name: value / BLOCK for name, value in _interleaved_ms(parts, repeats).items()}
    with FlopCounterMode(display=False) as counter:
        _backward(loop, precision)
    gflop, rate = counter.get_total_flops() / 1e9, _matmul_gflop_per_s(precision)
    forward_backward = ms["loss"] - ms["augmentation"]
    named = ms["augmentation"] + forward_backward + ms["fold"] + ms["update"]
    return {
        "step_ms": ms["step"],
        "augmentation_ms": ms["augmentation"],
        "forward_backward_ms": forward_backward,
        "fold_ms": ms["fold"],
        "update_ms": ms["update"],
        "rest_ms": ms["step"] - named,
        "gflop_per_step": gflop,
        "matmul_gflop_per_s": rate,
        "bound_ms": 1e3 * gflop / rate,
        "share_of_bound": 1e3 * gflop / rate / ms["step"],
    }


def _backward(loop: InnerLoop, precision: torch.dtype) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        loss = loop.task.loss(loop.model, loop.step)
    loss.backward()  # type: ignore[no-untyped-call]


def _block(part: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        for _ in range(BLOCK):
            part()

    return call


def _interleaved_ms(parts: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each part; parts take turns, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats + 1):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * median(values[1:]) for name, values in seconds.items()}


def _matmul_gflop_per_s(dtype: torch.dtype, repeats: int = 10) -> float:
    side = MATRIX_SIDE
    left: Tensor = torch.randn(side, side).to(dtype)
    right = torch.randn(side, side).to(dtype)
    ms = _interleaved_ms({"matmul": lambda: left @ right}, repeats)["matmul"]
    return 2 * side**3 / ms / 1e6
