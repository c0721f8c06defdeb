"""What the pipeline itself sustains: its Trainer and aggregator, while inner loops are empty.

Two tables of rows. One for workers, with few parameters: how many tasks a second the driver hands
out, takes back and books. One for parameters and shards: how long an outer step takes, of which
the parts are fitted, so that it can be said when the aggregator holds up the workers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from jobs import catalog
from jobs.bench.empty_worker import EmptyTaskActor
from jobs.bench.local_ray import local_ray
from jobs.bench.trainers import training
from jobs.bench.words import overridden
from pipeline.cluster import RayBackend, Slot
from pipeline.config import Experiment
from pipeline.network import build_network, outer_layout
from pipeline.server import Start
from pipeline.trainer import Trainer

WORKERS = (2, 8, 32, 128)
SHARDS = (1, 2, 4)
FILTERS = (60, 600, 1920)  # of a network of about 10⁵, 10⁷ and 10⁸ parameters
TASKS_OF_A_STEP = 4  # where parameters are many
FLOAT_BYTES = 4
CPUS_OF_A_WORKER = 0.01
CORES = 4  # on which many workers share what there is
STORE_BYTES = 8 << 30
REPEATS = 3
WORDS = (
    "data.name=glyphs",
    "data.num_train_tasks=8",
    "data.num_test_tasks=2",
    "task.num_ways=5",
    "inner.num_steps=1",
    "meta.num_steps=1000000",
    "checkpoint.every=1000000",
    "workers.count=1",
)


def run(
    workers: Sequence[int] = WORKERS,
    filters: Sequence[int] = FILTERS,
    shards: Sequence[int] = SHARDS,
    console: Console | None = None,
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Measure both tables.

    Args:
        workers: Counts of workers of the first table.
        filters: Of the network in the second, whose parameters grow with their square.
        shards: Counts of shards of the second table.
        console: Is told each row.
        overrides: `key=value` changes to the experiment.
    """
    rows: list[dict[str, Any]] = []

    def take(row: dict[str, Any]) -> None:
        rows.append(row)
        if console:
            console.print("  ".join(f"{key} {_short(value)}" for key, value in row.items()))

    planned: list[tuple[Experiment, int]] = []  # all of it, so that a mistake is found at once
    for count in workers:
        words = [*WORDS, f"meta.batch_size={max(32, 2 * count)}", "model.num_filters=60"]
        planned.append((catalog.load("quickstart", overridden(words, overrides)), count))
    for size in filters:
        for number in shards:
            words = [*WORDS, f"meta.batch_size={TASKS_OF_A_STEP}"]
            words += [f"model.num_filters={size}", f"aggregator.shards={number}"]
            planned.append((catalog.load("quickstart", overridden(words, overrides)), 2))
    memory = memory_mb_per_s()
    with local_ray(CORES, STORE_BYTES):
        for experiment, count in planned:
            take(_measured(experiment, count))
    few, many = rows[: len(workers)], rows[len(workers) :]
    return {"rows": rows, "memory_mb_per_s": memory, **fitted(few, many)}


def fitted(few: Sequence[dict[str, Any]], many: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the parts of an outer step's time, and how well they foretell the rows.

    `task_ms` is what each task takes of the driver where parameters are few. Where they are many,
    an outer step takes `fixed_ms` and `ms_per_mb_of_parameters`, a line through the smallest and
    the largest vector, each at the number of shards that was quickest; `worst_misfit` is how far
    the line is from the measured times, as a share of them.
    """
    task_ms = statistics.median(row["outer_step_ms"] / row["tasks"] for row in few)
    best: dict[int, dict[str, Any]] = {}
    for row in many:
        held = best.get(row["parameters"])
        if held is None or row["outer_step_ms"] < held["outer_step_ms"]:
            best[row["parameters"]] = row
    sizes = sorted(best)
    if len(sizes) < 2:
        return {"task_ms": task_ms}
    # A line through the quickest rows: what does not grow with the parameters, and what does.
    megabytes = np.array([size * FLOAT_BYTES / 1e6 for size in sizes])
    times = np.array([best[size]["outer_step_ms"] for size in sizes])
    slope = float(times[-1] - times[0]) / float(megabytes[-1] - megabytes[0])
    fixed = float(times[0] - slope * megabytes[0])
    foretold = fixed + slope * megabytes
    return {
        "task_ms": task_ms,
        "fixed_ms": fixed,
        "ms_per_mb_of_parameters": slope,
        "worst_misfit": float(np.max(np.abs(foretold / times - 1))),
    }


def memory_mb_per_s(size: int = 1 << 26) -> float:
    """Return how many MB one thread adds to others in a second: read, read, written."""
    one, other = np.ones(size, np.float32), np.ones(size, np.float32)
    rates = []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        one += other
        rates.append(3 * one.nbytes / 1e6 / (time.perf_counter() - begun))
    return statistics.median(rates[1:])


class _EmptyBackend(RayBackend):
    """A Ray backend whose workers do nothing."""

    def __init__(self, experiment: Experiment, count: int) -> None:
        _, vector = build_network(experiment)
        self._bounds = outer_layout(experiment, vector).shard_bounds()
        self._count = count
        super().__init__(experiment, Start())

    def _wanted(self) -> int:
        return self._count

    def _start_worker(self) -> Slot:
        actor = EmptyTaskActor.options(num_cpus=CPUS_OF_A_WORKER).remote(list(self._bounds))
        return Slot(actor, actor.ready.remote())


def _measured(experiment: Experiment, count: int) -> dict[str, Any]:
    backend = _EmptyBackend(experiment, count)
    backend.worker_pids()  # all stand
    size = int(outer_layout(experiment, build_network(experiment)[1]).size)
    with training(experiment, backend) as (trainer, _):
        trainer.outer_step()
        step_s = statistics.median(_step_s(trainer) for _ in range(REPEATS))
    tasks = experiment.meta.batch_size
    return {
        "workers": count,
        "shards": experiment.aggregator.shards,
        "parameters": size,
        "tasks": tasks,
        "tasks_per_s": tasks / step_s,
        "outer_step_ms": 1e3 * step_s,
        "mb_per_s": tasks * size * FLOAT_BYTES / 1e6 / step_s,
    }


def _step_s(trainer: Trainer) -> float:
    """Return the seconds of an outer step, over as many as take half a second."""
    begun, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - begun < 0.5:
        trainer.outer_step()
        count += 1
    return (time.perf_counter() - begun) / count


def _short(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
