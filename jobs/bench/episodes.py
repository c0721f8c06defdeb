"""`outerloop bench episodes`: meta-steps a second and memory, against public libraries.

MAML of second order and prototypical networks on the network of few-shot papers, Conv-4-64 with
batch-norm, in float32. All take the same meta-batches, drawn beforehand, from the same weights,
with Adam, in single-threaded processes of their own that take turns, with the memory allocator set
as our workers set it; medians count. Before that their losses and outer gradients are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch

from jobs import catalog
from jobs.bench.episode_peers import MAML_PEERS, PROTOTYPE_PEERS, Peer, is_installed
from jobs.bench.episode_steps import build_steps, draw_batches
from jobs.bench.measured_process import MeasuredProcess, Take, steps_per_second
from jobs.bench.peak_memory import peak_mib
from pipeline.config import Experiment
from pipeline.data.registry import load_image_classes
from pipeline.errors import BadInputError
from pipeline.memory import keep_freed_memory

OURS = "outerloop"
META_BATCH = 4
GRADIENT_TOLERANCE = 1e-8  # of float64 outer gradients, relative to their length
LOSS_TOLERANCE = 1e-4  # of float32 losses, relative


@dataclass(frozen=True)
class Case:
    """A learner and the size of its episodes."""

    experiment: str
    overrides: tuple[str, ...]
    peers: Mapping[str, type[Peer]]


def _maml(num_steps: int) -> Case:
    steps = f"algorithm.options.num_steps={num_steps}"
    return Case("maml-omniglot", ("episodes.train_num_queries=15", steps), MAML_PEERS)


def _prototypical(num_ways: int, num_queries: int) -> Case:
    size = (f"episodes.train_num_ways={num_ways}", f"episodes.train_num_queries={num_queries}")
    return Case("prototypical-omniglot", size, PROTOTYPE_PEERS)


CASES = {
    "maml": _maml(num_steps=1),
    "maml_5_steps": _maml(num_steps=5),
    "prototypical": _prototypical(num_ways=5, num_queries=15),
    "prototypical_60_way": _prototypical(num_ways=60, num_queries=5),
}


def run(
    repeats: int = 5, meta_steps: int = 2, overrides: tuple[str, ...] = ()
) -> dict[str, dict[str, Any]]:
    """Measure; return the figures of each case by name.

    Args:
        repeats: Measurements of each contestant.
        meta_steps: Meta-steps of one measurement.
        overrides: Changes to the experiments, as on the command line.

    Raises:
        BadInputError: An override is wrong.
        RuntimeError: A contestant's losses or outer gradients are not those of ours.
    """
    experiments = {name: case_experiment(case, overrides) for name, case in CASES.items()}
    return {
        name: _figures(CASES[name], experiment, repeats, meta_steps)
        for name, experiment in experiments.items()
    }


def case_experiment(case: Case, overrides: tuple[str, ...] = ()) -> Experiment:
    """Return the case on the CPU; on the embedded glyphs where Omniglot is missing."""
    defaults = (
        "workers.device=cpu",
        f"meta.batch_size={META_BATCH}",
        f"episodes.group={META_BATCH}",
        *case.overrides,
    )
    given = {word.partition("=")[0] for word in overrides}
    settings = [w for w in defaults if w.partition("=")[0] not in given] + list(overrides)
    experiment = catalog.load(case.experiment, settings)
    try:
        load_image_classes(experiment.data.name)
    except BadInputError:
        experiment = catalog.load(case.experiment, [*settings, "data.name=glyphs"])
    return experiment


def check_agreement(case: Case, experiment: Experiment, names: list[str]) -> dict[str, float]:
    """Return by how much each peer's float32 outer gradient differs from ours, relatively.

    Of the loss agreement is demanded in float32 too. The outer gradient jumps where a ReLU or a
    maximum changes sides, so in float32 an error of rounding may show: float64 decides. The images
    have noise on them, since maxima tie on an empty background.

    Raises:
        RuntimeError: They differ by more than rounding.
    """
    differences: dict[str, float] = {}
    for dtype in (torch.float64, torch.float32):
        batch = draw_batches(experiment, 1, dtype, noise=0.1)[0]
        ours = build_steps(experiment, None, dtype)
        loss, gradient = ours.differentiate(batch), ours.gradient().clone()
        for name in names:
            peer = build_steps(experiment, case.peers[name], dtype)
            loss_error = float(abs(peer.differentiate(batch) - loss) / abs(loss))
            error = float((peer.gradient() - gradient).norm() / gradient.norm())
            differences[name] = error
            wrong = loss_error > LOSS_TOLERANCE
            if wrong or (dtype is torch.float64 and error > GRADIENT_TOLERANCE):
                raise RuntimeError(
                    f"{name} and {OURS} do not compute the same: in {dtype} the losses differ by "
                    f"{loss_error:.1e}, the outer gradients by {error:.1e}, relatively"
                )
    return differences


def _figures(case: Case, experiment: Experiment, repeats: int, meta_steps: int) -> dict[str, Any]:
    names = [name for name, peer in case.peers.items() if is_installed(peer)]
    differences = check_agreement(case, experiment, names)
    contestants: dict[str, type[Peer] | None] = {
        OURS: None,
        **{name: case.peers[name] for name in names},
    }
    rates = _rates(experiment, contestants, repeats, meta_steps)
    memory = {name: _peak_mib(experiment, peer) for name, peer in contestants.items()}
    speed = {name: median(values) for name, values in rates.items()}
    best = max(names, key=speed.__getitem__)
    ratios = {
        name: median(a / b for a, b in zip(rates[OURS], rates[name], strict=True)) for name in names
    }
    peers: dict[str, Any] = {
        name: {
            "meta_steps_per_s": speed[name],
            "ratio": ratios[name],
            "peak_mib": memory[name],
            "gradient_difference": differences[name],
        }
        for name in names
    }
    absent = {name: "not installed" for name in case.peers if name not in names}
    return {
        "meta_steps_per_s": speed[OURS],
        "best_peer": best,
        # Ratios within a repeat, so that a slow minute of the machine weighs on both sides.
        "ratio_to_best_peer": ratios[best],
        "peak_mib": memory[OURS],
        "peak_ratio_to_best_peer": memory[OURS] / memory[best],
        "meta_batch": experiment.episodes.group,
        "data": experiment.data.name,
        "peers": peers | absent,
    }


def _rates(
    experiment: Experiment,
    contestants: Mapping[str, type[Peer] | None],
    repeats: int,
    meta_steps: int,
) -> dict[str, list[float]]:
    """Return the meta-steps a second of each contestant in each repeat."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(MeasuredProcess(1, _endless_steps, experiment, peer))
            for name, peer in contestants.items()
        }
        for process in processes.values():
            steps_per_second([process], 1)  # a process is built while it is waited for
        for _ in range(repeats):
            for name, process in processes.items():
                rates[name].append(steps_per_second([process], meta_steps))
    return rates


def _endless_steps(experiment: Experiment, peer: type[Peer] | None) -> Take:
    keep_freed_memory()
    batches = draw_batches(experiment, 4, torch.float32)
    steps = build_steps(experiment, peer, torch.float32)

    def take(count: int) -> None:
        for number in range(count):
            steps.step(batches[number % len(batches)])

    take(2)  # first steps set up kernels and memory
    return take


def _peak_mib(experiment: Experiment, peer: type[Peer] | None) -> float:
    """Return what three meta-steps add to a fresh process that holds libraries and episodes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_own_peak_mib, experiment, peer).result()


def _own_peak_mib(experiment: Experiment, peer: type[Peer] | None) -> float:
    torch.set_num_threads(1)
    keep_freed_memory()
    if peer is not None and peer.library:
        import_module(peer.library)
    batches = draw_batches(experiment, 3, torch.float32)
    return peak_mib(partial(_take_all, experiment, peer, batches))


def _take_all(experiment: Experiment, peer: type[Peer] | None, batches: list[Any]) -> None:
    steps = build_steps(experiment, peer, torch.float32)
    for batch in batches:
        steps.step(batch)
