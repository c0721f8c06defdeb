"""Environments as tasks: physics of a control problem, or Atari games, some of them held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pipeline.agents import make_agent
from pipeline.config import Experiment
from pipeline.environments import TimedCall, TimedEnvironment, VectorEnvironment
from pipeline.errors import BadInputError, EnvironmentFailedError
from pipeline.messages import Split, TaskSpec
from pipeline.tasks.environment_pools import environment_pool
from pipeline.tasks.reinforcement_task import ReinforcementTask
from pipeline.tasks.shapes import Preparation, planned_steps


@dataclass(frozen=True, slots=True)
class EnvironmentSource:
    """Where environments come from, for the record."""

    name: str
    source: str
    digest: str


class EnvironmentFamily:
    """Every environment of an experiment, by split and number; none is in two splits.

    The seed given to `make` rules actions and episodes; which environment a task is follows from
    the experiment alone.
    """

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        """Check that the environments are there; BadInputError if one is not."""
        self._experiment = experiment
        self._device = device
        self._pool = environment_pool(experiment)
        self._agent = make_agent(experiment)
        kind = experiment.task.kind
        self.dataset = EnvironmentSource(
            name=experiment.environments.name if kind == "control" else kind,
            source=self._pool.source,
            digest=hashlib.sha256(f"{kind} {self._pool.source}".encode()).hexdigest(),
        )

    def num_tasks(self, split: Split) -> int:
        """Return how many environments the split has; there are none to validate on."""
        return len(self._pool.names(split))

    def profile(self, split: Split) -> dict[str, Any]:
        """Return what says which environments these are."""
        names = self._pool.names(split)
        return {"tasks": len(names), "names": ", ".join(names), **self._pool.profile(split)}

    def task_name(self, split: Split, task_id: int) -> str:
        """Return the name of a game, or of an environment with a number after " #"."""
        return self._pool.names(split)[task_id]

    def num_steps(self, spec: TaskSpec) -> int:
        """Return how many inner steps the work of `spec` has."""
        return planned_steps(self._experiment, spec)

    def class_names(self, split: Split) -> list[str]:
        """Return nothing: environments have no classes."""
        return []

    def preparation(self) -> Preparation:
        """Return how observations are made ready: as they are; encoders scale frames."""
        shape = self._pool.shape()
        return Preparation(shape.image_size, shape.in_channels, (0.0,), (1.0,))

    def make(self, split: Split, task_id: int, seed: int) -> ReinforcementTask:
        """Return the task with actions and episodes drawn from `seed`."""
        return ReinforcementTask(
            partial(self._environment, split, task_id),
            self._agent,
            seed=seed,
            unroll=self._experiment.environments.unroll,
            reward_clip=self._experiment.agent.reward_clip,
            device=self._device,
            normalized=partial(self._pool.normalized, split, task_id),
        )

    def _environment(self, split: Split, task_id: int) -> VectorEnvironment:
        """Return the environment of a task, which can be given up where it hangs.

        EnvironmentFailedError if it cannot be made any more: it could when the run was checked.
        """
        name = self.task_name(split, task_id)
        try:
            environment = TimedCall(name, "making it").of(self._pool.make, split, task_id)
        except BadInputError as error:
            raise EnvironmentFailedError(str(error)) from error
        return TimedEnvironment(environment, name, self._experiment.environments.timeout_s)
