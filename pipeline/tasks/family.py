"""What every family of tasks offers, and which tasks make a meta-batch."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from algorithms.types import Task
from pipeline.config import Experiment
from pipeline.learners import is_episodic
from pipeline.messages import Split, TaskSpec
from pipeline.seeding import numpy_generator
from pipeline.task_kinds import ENVIRONMENT_KINDS, EPISODE_KINDS
from pipeline.tasks.shapes import Preparation, num_train_tasks


class Source(Protocol):
    """Where a family's examples come from, for the record."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102


class TaskFamily(Protocol):
    """Every task of an experiment, by split and number; no example is in two splits."""

    @property
    def dataset(self) -> Source:
        """Return the data set that the tasks are drawn from."""

    def num_tasks(self, split: Split) -> int:
        """Return how many tasks the split has; 0 for one that is drawn from without end."""

    def task_name(self, split: Split, task_id: int) -> str:
        """Return the name of a task."""

    def num_steps(self, spec: TaskSpec) -> int:
        """Return how many inner steps the work of `spec` has."""

    def profile(self, split: Split) -> dict[str, Any]:
        """Return what says which tasks these are."""

    def class_names(self, split: Split) -> list[str]:
        """Return the names of the classes that tasks of the split are made of; none: no classes."""

    def preparation(self) -> Preparation:
        """Return how inputs are made ready for the network."""

    def make(self, split: Split, task_id: int, seed: int) -> Task:
        """Return a task for an inner loop; its minibatches are drawn from `seed`."""


def task_family(experiment: Experiment, device: torch.device) -> TaskFamily:
    """Return the tasks that `experiment` describes, on `device`.

    BadInputError if the data set is not there or has too little for what the keys ask.
    """
    if experiment.task.kind == "alphabets":
        from pipeline.tasks.alphabets import AlphabetFamily

        return AlphabetFamily(experiment, device)
    if experiment.task.kind == "datasets":
        from pipeline.tasks.dataset_family import DatasetFamily

        return DatasetFamily(experiment, device)
    if experiment.task.kind in ENVIRONMENT_KINDS:
        from pipeline.tasks.environment_family import EnvironmentFamily

        return EnvironmentFamily(experiment, device)
    from pipeline.tasks.episode_family import EpisodeFamily

    return EpisodeFamily(experiment, device)


def sample_meta_batch(experiment: Experiment, meta_step: int) -> list[int]:
    """Return the training task of each place in the meta-batch of outer step `meta_step`.

    A function of the root seed and `meta_step`. No task comes twice before every one has come
    once. Episodes are drawn by their place: a place is an episode, or a group of them for a
    learner of episodes.
    """
    batch_size = experiment.meta.batch_size
    if experiment.task.kind in EPISODE_KINDS:
        group = experiment.episodes.group if is_episodic(experiment) else 1
        return list(range(batch_size // group))
    generator = numpy_generator(experiment.seed, "meta-batch", meta_step)
    num_tasks = num_train_tasks(experiment)
    task_ids: list[int] = []
    while len(task_ids) < batch_size:
        task_ids += generator.permutation(num_tasks).tolist()
    return task_ids[:batch_size]
