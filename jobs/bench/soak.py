"""A soak: very many tiny tasks, during which nothing may grow and nothing may slow down.

The whole pipeline runs, with its books: Ray workers, aggregator, checkpoints, trajectories, MLflow.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from rich.console import Console

from jobs import catalog
from jobs.bench.trainers import asked_to_stop, check_workers_here, training
from jobs.bench.words import overridden
from pipeline.cluster import RayBackend
from pipeline.server import Start
from pipeline.trainer import Books, Trainer

MIB = 1 << 20
SAMPLE_EVERY_S = 15.0
WARM_UP = 0.1  # share of the time after which growth is counted
WORDS = (
    "data.name=glyphs",
    "data.num_train_tasks=8",
    "data.num_test_tasks=2",
    "task.num_ways=5",
    "task.batch_size=4",
    "task.augment=false",
    "model.num_filters=8",
    "inner.num_steps=25",
    "inner.segment_steps=25",
    "meta.batch_size=20",
    "meta.num_steps=1000000",
    "workers.count=2",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stand at one moment."""

    at_s: float
    tasks: int
    memory_mib: dict[str, float]  # resident, by process; shared memory apart
    handles: dict[str, int]  # open files, by process
    store_mib: float  # of Ray's object store in use


def run(
    minutes: float = 60.0, console: Console | None = None, overrides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Run tiny tasks for `minutes` and say what grew.

    `…_growth` compares the last tenth of the time with the second tenth: 0.01 is one percent more.

    Raises:
        BadInputError: An override is wrong, or leaves no workers on this machine.
        InterruptedRunError: After a signal.
    """
    experiment = catalog.load("quickstart", overridden(WORDS, overrides))
    check_workers_here("bench soak", experiment)
    with asked_to_stop(console) as stop:
        backend = RayBackend(experiment, Start())
        stop.begin()
        with training(experiment, backend, stop) as (trainer, books):
            trainer.outer_step()  # all stands, and has been used
            samples = _soak(trainer, books, _processes(backend), 60 * minutes, console)
    return _report(samples)


def _soak(
    trainer: Trainer,
    books: Books,
    processes: dict[str, psutil.Process],
    seconds: float,
    console: Console | None,
) -> list[Sample]:
    begun = time.monotonic()
    samples = [_sample(processes, books, begun)]
    while samples[-1].at_s < seconds:
        trainer.outer_step()
        if trainer.version % trainer.experiment.checkpoint.every == 0:
            trainer.save()
        if time.monotonic() - begun - samples[-1].at_s > SAMPLE_EVERY_S:
            samples.append(_sample(processes, books, begun))
            if console and len(samples) % 20 == 0:
                console.print(f"{samples[-1].at_s / 60:.0f} min, {samples[-1].tasks:,} tasks")
    return samples


def _processes(backend: RayBackend) -> dict[str, psutil.Process]:
    named = {f"worker {n}": pid for n, pid in enumerate(backend.worker_pids())}
    named |= {f"aggregator {n}": pid for n, pid in enumerate(backend.shard_pids())}
    return {name: psutil.Process(pid) for name, pid in named.items()} | {"driver": psutil.Process()}


def _sample(processes: dict[str, psutil.Process], books: Books, begun: float) -> Sample:
    memory, handles = {}, {}
    for name, process in processes.items():
        info = process.memory_info()
        memory[name] = (info.rss - info.shared) / MIB
        handles[name] = process.num_fds()
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    key = "object_store_memory"
    return Sample(
        time.monotonic() - begun,
        books.counters.tasks,
        memory,
        handles,
        (total.get(key, 0) - free.get(key, 0)) / MIB,
    )


def _report(samples: list[Sample]) -> dict[str, Any]:
    end = samples[-1].at_s
    early = [s for s in samples if WARM_UP * end <= s.at_s <= 2 * WARM_UP * end] or samples[:1]
    late = [s for s in samples if s.at_s >= (1 - WARM_UP) * end]
    names = samples[0].memory_mib
    return {
        "minutes": end / 60,
        "tasks": samples[-1].tasks,
        "memory_growth": {
            name: _growth([s.memory_mib[name] for s in early], [s.memory_mib[name] for s in late])
            for name in names
        },
        "memory_mib": samples[-1].memory_mib,
        "handles_first": early[0].handles,
        "handles_last": samples[-1].handles,
        "store_mib_most": max(s.store_mib for s in samples),
        "store_mib_last": samples[-1].store_mib,
        "tasks_per_s": samples[-1].tasks / end,
        "throughput_growth": _growth([_rate(samples, early)], [_rate(samples, late)]),
    }


def _growth(early: list[float], late: list[float]) -> float:
    return statistics.median(late) / statistics.median(early) - 1


def _rate(samples: list[Sample], some: list[Sample]) -> float:
    """Return tasks a second over the stretch of `some`, and the sample before it."""
    first = samples[max(0, samples.index(some[0]) - 1)]
    seconds = some[-1].at_s - first.at_s
    return (some[-1].tasks - first.tasks) / seconds if seconds else float("nan")
