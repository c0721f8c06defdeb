"""Whole image data sets as tasks, after the Multi-CV experiment of the Leap paper.

Flennerhag et al. (2019), arXiv:1812.01054, section 4.2: some data sets are held out, and a task
is one data set, seen for an epoch or a number of steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.config import Experiment
from pipeline.data.image_sets import CHANNELS, ImageSet, load_image_set
from pipeline.errors import BadInputError
from pipeline.messages import Split, TaskSpec
from pipeline.tasks.dataset_task import DatasetTask
from pipeline.tasks.shapes import Preparation, planned_steps


@dataclass(frozen=True, slots=True)
class DatasetPool:
    """All data sets of an experiment, for the record."""

    name: str
    source: str
    digest: str


class DatasetFamily:
    """Every data set of an experiment, by split and number; none is in two splits."""

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        """Load the data sets; BadInputError if one is missing or smaller than a minibatch."""
        self._experiment = experiment
        self._device = device
        config = experiment.datasets
        self._names: dict[Split, tuple[str, ...]] = {
            "train": config.train,
            "val": config.validation,
            "test": config.held_out,
        }
        self._sets = {name: load_image_set(name, config.image_size) for name in config.names}
        for name, found in self._sets.items():
            if len(found.train.rows) < experiment.task.batch_size:
                raise BadInputError(
                    f"task.batch_size={experiment.task.batch_size}: data set '{name}' has "
                    f"{len(found.train.rows)} images to train on"
                )
        self.dataset = DatasetPool(
            name="datasets", source=", ".join(config.names), digest=self._digest(config.names)
        )

    def num_tasks(self, split: Split) -> int:
        """Return how many data sets the split has."""
        return len(self._names[split])

    def profile(self, split: Split) -> dict[str, Any]:
        """Return what says which data sets these are: their number, names and content."""
        names = self._names[split]
        return {"tasks": len(names), "names": ", ".join(names), "sha256": self._digest(names)}

    def task_name(self, split: Split, task_id: int) -> str:
        """Return the name of a data set."""
        return self._names[split][task_id]

    def num_steps(self, spec: TaskSpec) -> int:
        """Return how many inner steps the work of `spec` has: whole epochs, where they count."""
        epochs = self._experiment.inner.epochs
        if spec.purpose == "train" and epochs:
            num_examples = len(self._set(spec.split, spec.task_id).train.rows)
            return -(-epochs * num_examples // self._experiment.task.batch_size)
        return planned_steps(self._experiment, spec)

    def class_names(self, split: Split) -> list[str]:
        """Return the names of all classes of the split's data sets."""
        names = self._names[split]
        return [f"{name}/{one}" for name in names for one in self._sets[name].class_names]

    def preparation(self) -> Preparation:
        """Return how images are made ready: pixels between −1 and 1."""
        size = self._experiment.datasets.image_size
        return Preparation(size, CHANNELS, (0.5,) * CHANNELS, (0.5,) * CHANNELS)

    def make(self, split: Split, task_id: int, seed: int) -> DatasetTask:
        """Return the task with minibatches drawn from `seed`."""
        return DatasetTask(
            self._set(split, task_id),
            seed=seed,
            batch_size=self._experiment.task.batch_size,
            device=self._device,
        )

    def _digest(self, names: Iterable[str]) -> str:
        digests = "\n".join(f"{name} {self._sets[name].digest}" for name in sorted(names))
        return hashlib.sha256(digests.encode()).hexdigest()

    def _set(self, split: Split, task_id: int) -> ImageSet:
        return self._sets[self._names[split][task_id]]
