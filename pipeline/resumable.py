"""What a resumed run may change, and that the rest is what it was trained with."""

from __future__ import annotations

from typing import Any

from pipeline.config import Experiment
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
    "workers.queue_depth",
    "workers.max_retries",
    "workers.task_timeout_s",
    "environments.timeout_s",
    "checkpoint.",
    "tracking.",
    "evaluation.",
)


def fixed_values(experiment: Experiment) -> dict[str, Any]:
    """Return, by dotted key, what a resumed run has to leave as it is; part of every checkpoint."""
    leaves = flatten(experiment.model_dump(mode="json"))
    return {key: value for key, value in leaves.items() if not key.startswith(RESUMABLE)}


def check_fixed(run_id: str, experiment: Experiment, saved: dict[str, Any]) -> None:
    """Raise BadInputError if config.yaml is not what a checkpoint says the run was trained with.

    Keys that only one of the two has are those of another version of outerloop.
    """
    now = fixed_values(experiment)
    for key in sorted(now.keys() & saved.keys()):
        if now[key] != saved[key]:
            raise BadInputError(
                f"run {run_id}: config.yaml says {key}={now[key]}, its checkpoint "
                f"{key}={saved[key]}: restore the file, or start a new run"
            )
