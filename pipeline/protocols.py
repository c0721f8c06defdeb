"""What the methods of a meta-test share, and how each was meta-trained, by configuration key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.agents import planned_env_steps
from pipeline.config import Experiment, field_rows
from pipeline.learners import is_transductive
from pipeline.task_kinds import ENVIRONMENT_KINDS, EPISODE_KINDS

# What the methods of a comparison must share. An inner loop on alphabets is part of the meta-test,
# and so is the network that it trains; a learner of episodes brings its own of both.
PROTOCOL_SECTIONS = ("model.", "task.", "inner.")
EPISODE_SECTIONS = ("episodes.",)
PROTOCOL_KEYS = (
    "data.name",
    "datasets.image_size",
    "seed",
    "evaluation.num_steps",
    "evaluation.repeats",
)
ENVIRONMENT_SECTIONS = ("model.", "environments.", "agent.", "inner.")
ENVIRONMENT_KEYS = ("task.kind", "seed", "evaluation.num_steps", "evaluation.repeats")
EPISODE_KEYS = ("data.name", "seed", "task.kind", "evaluation.repeats")
# How episodes are drawn in meta-training, and how the work was cut up.
EPISODE_LEARNER_KEYS = (
    "episodes.train_num_ways",
    "episodes.train_num_shots",
    "episodes.train_num_queries",
    "episodes.augment",
    "episodes.group",
    "episodes.num_val",
)
# How the initialisation was learned, and how the work was cut up: no part of the meta-test.
LEARNER_KEYS = (
    "inner.num_steps",
    "inner.epochs",
    "inner.segment_steps",
    "inner.checkpoint_every",
    "inner.snapshot_every",
    "data.num_train_tasks",
    "datasets.names",
    "environments.num_train",
    "environments.games",
    "environments.threads",
    "environments.timeout_s",
    "environments.restart_at_checkpoints",
)
WORK_KEYS = (
    "inner.segment_steps",
    "inner.checkpoint_every",
    "inner.snapshot_every",
    "environments.threads",
    "environments.timeout_s",
    "environments.restart_at_checkpoints",
)
LEARNER_SECTIONS = ("algorithm.", "outer.")
DELAYED_KEYS = ("outer.delay", "outer.activation")  # which one outer optimizer alone knows
LEARNER_META_KEYS = ("meta.num_steps", "meta.batch_size")
ASYNC_KEYS = ("meta.mode", "meta.apply_every", "meta.max_staleness", "meta.stale")


def protocol_of(
    experiment: Experiment,
    test_tasks: Sequence[str],
    data_digest: str,
    profile: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what the meta-test of `experiment` on `test_tasks` fixes for all methods.

    `data_digest` is of the data set's content: one name can stand for several versions of it.
    `profile` says of episodes what they are drawn from.
    """
    rows = {key: value for key, value, _ in field_rows(experiment)}
    if experiment.task.kind in ENVIRONMENT_KINDS:
        kept = {
            key: list(value) if isinstance(value, tuple) else value  # as a file gives it back
            for key, value in rows.items()
            if key not in LEARNER_KEYS
            and (key in ENVIRONMENT_KEYS or key.startswith(ENVIRONMENT_SECTIONS))
        }
        env_steps = planned_env_steps(experiment, experiment.evaluation.num_steps)
        fixed = {"env_steps": env_steps, "data.digest": data_digest}
        if experiment.inner.checkpoint_every and experiment.environments.restart_at_checkpoints:
            fixed["new episodes every"] = experiment.inner.checkpoint_every  # inner steps
        return kept | fixed | {"test_tasks": list(test_tasks)}
    if experiment.task.kind not in EPISODE_KINDS:
        kept = {
            key: value
            for key, value in rows.items()
            if key not in LEARNER_KEYS
            and (key in PROTOCOL_KEYS or key.startswith(PROTOCOL_SECTIONS))
        }
        return kept | {"data.digest": data_digest, "test_tasks": list(test_tasks)}
    kept = {
        key: value
        for key, value in rows.items()
        if key not in EPISODE_LEARNER_KEYS
        and (key in EPISODE_KEYS or key.startswith(EPISODE_SECTIONS))
    }
    # Episodes are numbered: thousands of names would say no more than their count.
    tested = [f"{len(test_tasks)} episodes"]
    return kept | {"data.digest": data_digest, "test_tasks": tested, "classes": dict(profile or {})}


def learner_of(experiment: Experiment, outer_steps: int) -> dict[str, Any]:
    """Return how `experiment` learns in `outer_steps`, its seed apart; and how it answers."""
    keys = LEARNER_META_KEYS + (ASYNC_KEYS if experiment.meta.mode == "async" else ())
    keys += tuple(key for key in LEARNER_KEYS if key not in WORK_KEYS)
    sections: tuple[str, ...] = LEARNER_SECTIONS
    if experiment.task.kind in EPISODE_KINDS:
        keys += (*EPISODE_LEARNER_KEYS, "evaluation.num_steps")
        sections += ("model.", "inner.")
    settings = {
        key: value
        for key, value, _ in field_rows(experiment)
        if key in keys or key.startswith(sections)
    }
    if experiment.outer.optimizer != "delayed-nesterov":  # or older runs would be other methods
        settings = {key: value for key, value in settings.items() if key not in DELAYED_KEYS}
    if experiment.task.kind in EPISODE_KINDS:
        settings["transductive"] = is_transductive(experiment)
    # What was done, not what was planned: a run that has not ended can be meta-tested too.
    return settings | {"meta.num_steps": outer_steps}
