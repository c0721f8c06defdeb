"""What a resumed run may change, and that the rest is what it was trained with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import Experiment
from pipeline.dispatcher import Counters
from pipeline.errors import BadInputError
from pipeline.tracking import flatten

# How long it goes on and where it runs, not what it computes.
RESUMABLE = (
    "meta.num_steps",
    "meta.steps",
    "meta.max_hours",
    "meta.max_inner_steps",
    "meta.max_env_steps",
    "workers.count",
    "workers.address",
    "workers.gpus_per_worker",
    "workers.placement",
    "workers.accelerator",
    "workers.labels",
    "workers.wait_for_nodes_s",
    "workers.queue_depth",
    "workers.max_retries",
    "workers.task_timeout_s",
    "environments.timeout_s",
    "job.",
    "checkpoint.",
    "tracking.",
    "evaluation.",
)


OPTIONS = "algorithm.options."  # only those that were given are there


def fixed_values(experiment: Experiment) -> dict[str, Any]:
    """Return, by dotted key, what a resumed run has to leave as it is; part of every checkpoint."""
    leaves = flatten(experiment.model_dump(mode="json"))
    return {key: value for key, value in leaves.items() if not key.startswith(RESUMABLE)}


def fixed_differences(
    experiment: Experiment, saved: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield each key that `experiment` has otherwise than a checkpoint: (key, here, there).

    Keys that only one of the two has are those of another version of outerloop, but for options.
    """
    now = fixed_values(experiment)
    given = now.keys() | saved.keys() if saved else set()
    options = {key for key in given if key.startswith(OPTIONS)}
    for key in sorted(now.keys() & saved.keys() | options):
        here, there = (values.get(key, "(the default)") for values in (now, saved))
        if here != there:
            yield key, here, there


def check_fixed(run_id: str, experiment: Experiment, saved: dict[str, Any]) -> None:
    """Raise BadInputError if config.yaml is not what a checkpoint says the run was trained with."""
    for key, here, there in fixed_differences(experiment, saved):
        raise BadInputError(
            f"run {run_id}: config.yaml says {key}={here}, its checkpoint {key}={there}: "
            "restore the file, or start a new run"
        )


def check_same(run_id: str, experiment: Experiment, of_run: Experiment) -> None:
    """Raise BadInputError if the run is there, but of another experiment than is asked for."""
    asked, there = fixed_values(experiment), fixed_values(of_run)
    for key in sorted(asked.keys() | there.keys()):
        if asked.get(key) != there.get(key):
            raise BadInputError(
                f"run {run_id} exists, with {key}={there.get(key)}, not {asked.get(key)}: give "
                "another --run-id, or the experiment that the run is of"
            )


def check_meta(run_id: str, meta: dict[str, Any]) -> None:
    """Raise BadInputError if what a checkpoint says besides parameters is not what a run writes."""
    names = {field.name for field in dataclasses.fields(Counters)}
    counters, schedule = meta.get("counters"), meta.get("schedule")
    problem = ""
    if not isinstance(counters, dict) or any(
        key not in names or not _is_count(number) for key, number in counters.items()
    ):
        problem = "counters"
    elif not isinstance(schedule, dict | None):
        problem = "schedule"
    elif not isinstance(meta.get("experiment", {}), dict):
        problem = "experiment"
    if problem:
        raise BadInputError(
            f"run {run_id}: '{problem}' in the manifest of its checkpoint is not what outerloop "
            "writes; restore the checkpoint, or start a new run"
        )


def _is_count(number: Any) -> bool:
    return type(number) in (int, float) and 0 <= number < math.inf
