"""Whether bfloat16 costs accuracy: the same tasks, batches and starting points in both."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import sched_getaffinity
from statistics import fmean, stdev
from typing import Any

from pipeline.config import Experiment, build_experiment
from pipeline.messages import TaskSpec
from pipeline.trajectory_worker import TrajectoryWorker

SEEDS = (0, 1, 2)
PRECISIONS = ("float32", "bfloat16")


def precision_figures(experiment: Experiment) -> dict[str, Any]:
    """Return held-out accuracy after adaptation from scratch, by precision and seed.

    Each value is a mean over the seed's held-out tasks. `accuracy_difference` is bfloat16 less
    float32, its standard error taken over pairs of the same task.
    """
    jobs = [(experiment, precision, seed) for seed in SEEDS for precision in PRECISIONS]
    with ProcessPoolExecutor(len(sched_getaffinity(0)), get_context("spawn")) as pool:
        accuracies = list(pool.map(_accuracies, *zip(*jobs, strict=True)))
    by_job = {job[1:]: values for job, values in zip(jobs, accuracies, strict=True)}
    differences = [
        half - full
        for seed in SEEDS
        for half, full in zip(by_job["bfloat16", seed], by_job["float32", seed], strict=True)
    ]
    return {
        f"accuracy_{precision}": [fmean(by_job[precision, seed]) for seed in SEEDS]
        for precision in PRECISIONS
    } | {
        "accuracy_difference": fmean(differences),
        "accuracy_difference_standard_error": stdev(differences) / len(differences) ** 0.5,
        "accuracy_tasks": len(differences),
    }


def _accuracies(experiment: Experiment, precision: str, seed: int) -> list[float]:
    tree = experiment.model_dump(mode="json")
    tree["seed"] = seed
    tree["inner"]["precision"] = precision
    worker = TrajectoryWorker(build_experiment(tree, source="bench"))
    accuracies = []
    for task_id in range(experiment.data.num_test_tasks):
        spec = TaskSpec(0, task_id, task_id, "test", 0, purpose="evaluate", method="scratch")
        *_, last = worker.run(spec, [])
        accuracies.append(last.metrics["accuracy"])
    return accuracies
