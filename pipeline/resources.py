"""What a Ray cluster offers and what an experiment asks of it: cores, GPUs, room for workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from pipeline.config import Experiment
from pipeline.config_sections import WorkersConfig
from pipeline.errors import BadInputError

CPU, GPU = "CPU", "GPU"
ACCELERATOR = "accelerator_type:"  # how Ray names a node's kind of GPU among its resources
EPSILON = 1e-9  # shares of a GPU are sums of floats


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive, and what it has in all, in use or not."""

    cpus: float
    gpus: float
    accelerators: frozenset[str]
    labels: frozenset[tuple[str, str]]

    def room(self, workers: WorkersConfig, gpu_share: float) -> int:
        """Return how many workers it could hold if it held nothing else."""
        if not workers.labels.items() <= dict(self.labels).items():
            return 0
        if workers.accelerator and workers.accelerator not in self.accelerators:
            return 0
        rooms = [self.cpus / workers.threads]
        if gpu_share:
            rooms.append(self.gpus / gpu_share)
        return int(min(rooms) + EPSILON)


def nodes() -> list[Node]:
    """Return the nodes of the cluster that are alive."""
    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Node(
            cpus=node["Resources"].get(CPU, 0.0),
            gpus=node["Resources"].get(GPU, 0.0),
            accelerators=frozenset(
                name.removeprefix(ACCELERATOR)
                for name in node["Resources"]
                if name.startswith(ACCELERATOR)
            ),
            labels=frozenset((node.get("Labels") or {}).items()),
        )
        for node in listed
        if node["Alive"]
    ]


def gpu_share(workers: WorkersConfig, there: list[Node]) -> float:
    """Return the GPUs of one worker: as configured, else an even share of those there are."""
    if workers.gpus_per_worker or workers.device == "cpu":
        return workers.gpus_per_worker
    _, gpus = _totals(there)
    if workers.count == "auto":
        return 1.0 if gpus else 0.0
    share = gpus / workers.count
    return float(int(share)) if share >= 1 else share


def room_for_workers(experiment: Experiment, share: float, there: list[Node]) -> int:
    """Return how many workers the nodes `there` hold."""
    return sum(node.room(experiment.workers, share) for node in there)


def offered(there: list[Node]) -> str:
    """Return what there is, in words."""
    cpus, gpus = _totals(there)
    kinds = sorted({kind for node in there for kind in node.accelerators})
    of = f" ({', '.join(kinds)})" if kinds else ""
    return f"{_count(len(there), 'node')} with {cpus:g} CPU cores and {gpus:g} GPUs{of}"


def check_resources(experiment: Experiment) -> None:
    """Raise BadInputError if the cluster has less than is asked for, unless that is waited for."""
    workers, there = experiment.workers, nodes()
    if workers.wait_for_nodes_s and workers.address:  # a Ray of this machine does not grow
        return
    share = gpu_share(workers, there)
    wanted = 1 if workers.count == "auto" else workers.count
    cpus, gpus = _totals(there)
    if wanted * workers.threads > cpus:
        raise BadInputError(
            f"workers.count: {wanted} workers of {workers.threads} thread(s) need "
            f"{wanted * workers.threads} CPU cores; there are {cpus:.0f}"
        )
    needed = max(share * wanted, float(workers.device.startswith("cuda")))
    if needed > gpus + EPSILON:
        raise BadInputError(
            f"workers.gpus_per_worker: {wanted} workers need {needed:g} GPUs; there are {gpus:g}"
        )
    room = room_for_workers(experiment, share, there)
    if wanted > room:
        raise BadInputError(
            f"workers.count: {_count(wanted, 'worker')} of {_asked(workers, share)}: there is "
            f"room for {room} on {offered(there)}; ask for fewer or smaller ones, or wait for "
            "nodes with workers.wait_for_nodes_s"
        )


def said_of(experiment: Experiment) -> str:
    """Return a line on what the cluster offers and what the experiment asks."""
    workers, there = experiment.workers, nodes()
    share = gpu_share(workers, there)
    room = room_for_workers(experiment, share, there)
    wanted = (
        "as many workers as fit" if workers.count == "auto" else _count(workers.count, "worker")
    )
    return (
        f"cluster: {offered(there)}; asked for: {wanted} of {_asked(workers, share)}; "
        f"there is room for {room}"
    )


def _totals(there: list[Node]) -> tuple[float, float]:
    return sum(node.cpus for node in there), sum(node.gpus for node in there)


def _asked(workers: WorkersConfig, share: float) -> str:
    words = [f"{_count(workers.threads, 'CPU core')}"]
    if share:
        words.append(f"{share:g} GPU")
    if workers.accelerator:
        words.append(workers.accelerator)
    words += [f"{key}={value}" for key, value in workers.labels.items()]
    return ", ".join(words)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
