"""`outerloop bench inner-loop`: inner steps a second, against a plain PyTorch loop.

Ours is what a task worker does in the leap-omniglot experiment, in its default settings, a
single-threaded process for each core, without Ray. The plain loop has all cores to itself. They
take turns, so that a machine that is busy in between slows both; medians count. On a machine that
others use all the time the plain loop's threads, which wait for each other at every operation,
lose more than single-threaded processes do: there `ratio_of_best`, from the fastest measurement
of each, is the fairer figure.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch

from jobs import catalog
from jobs.bench.cuda_inner_loop import cuda_figures
from jobs.bench.measured_process import MeasuredProcess, Take, steps_per_second
from jobs.bench.parts import part_figures
from jobs.bench.plain_loop import plain_loop
from jobs.bench.precision import precision_figures
from pipeline.config import Experiment
from pipeline.data import load_dataset
from pipeline.errors import BadInputError
from pipeline.messages import TaskSpec
from pipeline.network import initial_outer_parameters
from pipeline.trajectory_worker import TrajectoryWorker

LOADER_WORKERS = (0, 2)  # of the plain loop's DataLoader: the better one counts


def run(
    num_tasks: int = 1,
    repeats: int = 7,
    device: str = "auto",
    accuracy: bool = False,
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Measure; return the figures by name.

    Args:
        num_tasks: Tasks that a worker trains on in one measurement.
        repeats: Measurements of each kind.
        device: auto, cpu or cuda; auto and cuda take a GPU as well, where there is one.
        accuracy: Compare the held-out accuracy of bfloat16 and float32 too; takes minutes.
        overrides: Changes to the leap-omniglot experiment, as on the command line.

    Raises:
        BadInputError: `device` is another, or cuda without a GPU, or an override is wrong.
    """
    on_cuda = _wants_cuda(device)
    experiment = bench_experiment(overrides)
    figures = _throughput(experiment, num_tasks, repeats)
    figures |= part_figures(experiment)
    figures["cuda"] = cuda_figures(experiment) if on_cuda else "not run: no GPU here"
    if accuracy:
        figures |= precision_figures(experiment)
    return figures


def bench_experiment(overrides: tuple[str, ...] = ()) -> Experiment:
    """Return leap-omniglot on the CPU; on the embedded glyphs where Omniglot is missing."""
    settings = list(overrides)
    if not any(text.startswith("workers.device=") for text in settings):
        settings.append("workers.device=cpu")
    experiment = catalog.load("leap-omniglot", settings)
    try:
        load_dataset(experiment.data.name)
    except BadInputError:
        glyphs = ["data.name=glyphs", "data.num_train_tasks=5", "data.num_test_tasks=5"]
        others = [text for text in settings if not text.startswith("data.")]
        experiment = catalog.load("leap-omniglot", [*others, *glyphs])
    return experiment


def worker_loop(experiment: Experiment) -> Take:
    """Return a task worker's loop over whole tasks, one after the other."""
    worker = TrajectoryWorker(experiment)
    params = [initial_outer_parameters(experiment).numpy()]
    num_tasks = worker.family.num_tasks("train")

    def take(num_steps: int) -> None:
        for index in range(num_steps // experiment.inner.num_steps):
            spec = TaskSpec(0, index, index % num_tasks, "train", version=0)
            for _ in worker.run(spec, params):
                pass

    take(experiment.inner.num_steps)  # first steps set up kernels and memory
    return take


def _throughput(experiment: Experiment, num_tasks: int, repeats: int) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    num_steps = num_tasks * experiment.inner.num_steps
    ours: list[float] = []
    single: list[float] = []
    plain: dict[int, list[float]] = {count: [] for count in LOADER_WORKERS}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(MeasuredProcess(1, worker_loop, experiment)) for _ in range(cores)
        ]
        plain_loops = {
            count: stack.enter_context(
                MeasuredProcess(cores, plain_loop, *_plain_arguments(experiment), count)
            )
            for count in LOADER_WORKERS
        }
        for _ in range(repeats):
            ours.append(steps_per_second(workers, num_steps))
            single.append(steps_per_second(workers[:1], num_steps))
            for count, process in plain_loops.items():
                plain[count].append(steps_per_second([process], num_steps))
    baseline_workers = max(plain, key=lambda count: median(plain[count]))
    rate, baseline_rate = median(ours), median(plain[baseline_workers])
    return {
        "inner_steps_per_s": rate,
        "baseline_steps_per_s": baseline_rate,
        "ratio_to_baseline": rate / baseline_rate,
        "ratio_of_best": max(ours) / max(max(rates) for rates in plain.values()),
        "baseline_loader_workers": baseline_workers,
        "cores": cores,
        "data": experiment.data.name,
        "precision": experiment.inner.precision,
        "single_worker_step_ms": 1e3 / median(single),
    }


def _plain_arguments(experiment: Experiment) -> tuple[Any, ...]:
    config = experiment.task
    dataset = load_dataset(experiment.data.name)
    characters = next(
        a.characters for a in dataset.alphabets if len(a.characters) >= config.num_ways
    )
    rows = [row for c in characters[: config.num_ways] for row in c[: config.num_train_drawings]]
    return (
        dataset.images[rows],
        config.num_ways,
        config.batch_size,
        experiment.inner.lr,
        experiment.model.num_filters,
    )


def _wants_cuda(device: str) -> bool:
    if device not in ("auto", "cpu", "cuda"):
        raise BadInputError(f"device '{device}': expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInputError("device 'cuda': torch sees no GPU here; expected auto or cpu")
    return device != "cpu" and torch.cuda.is_available()
