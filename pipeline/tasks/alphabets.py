"""Alphabets as tasks: one for each, split into meta-training and held-out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.config import Experiment
from pipeline.data import load_dataset
from pipeline.data.alphabets import SIDE, Alphabet, AlphabetSet
from pipeline.data.image_classes import character_name
from pipeline.errors import BadInputError
from pipeline.messages import Split, TaskSpec
from pipeline.seeding import numpy_generator
from pipeline.tasks.classification import ClassificationTask
from pipeline.tasks.shapes import Preparation, planned_steps


class AlphabetFamily:
    """Every task of an experiment, by split and number.

    At all times:
      - no alphabet is in both splits;
      - which alphabets are held out depends on the seed and `num_test_tasks` alone;
      - a task's characters and its training and held-out drawings depend on the root seed and
        the alphabet alone, so a task means the same thing all through a run. The seed given to
        `make` rules minibatches and augmentation.
    """

    def __init__(
        self, experiment: Experiment, device: torch.device, dataset: AlphabetSet | None = None
    ) -> None:
        """Take `dataset`, or load the one that the experiment names.

        BadInputError if it has too little for what the keys ask.
        """
        self.dataset = dataset or load_dataset(experiment.data.name)
        self._experiment = experiment
        self._device = device
        alphabets = _usable_alphabets(experiment, self.dataset)
        order = numpy_generator(experiment.seed, "alphabets").permutation(len(alphabets))
        num_test = experiment.data.num_test_tasks
        num_used = num_test + experiment.data.num_train_tasks
        self._alphabets: dict[Split, tuple[Alphabet, ...]] = {
            "val": (),
            "test": tuple(alphabets[i] for i in order[:num_test]),
            "train": tuple(alphabets[i] for i in order[num_test:num_used]),
        }

    def num_tasks(self, split: Split) -> int:
        """Return how many tasks the split has."""
        return len(self._alphabets[split])

    def profile(self, split: Split) -> dict[str, Any]:
        """Return what says which tasks these are: their number and names."""
        names = [alphabet.name for alphabet in self._alphabets[split]]
        return {"tasks": len(names), "names": ", ".join(names)}

    def task_name(self, split: Split, task_id: int) -> str:
        """Return the name of the task's alphabet."""
        return self._alphabets[split][task_id].name

    def num_steps(self, spec: TaskSpec) -> int:
        """Return how many inner steps the work of `spec` has."""
        return planned_steps(self._experiment, spec)

    def class_names(self, split: Split) -> list[str]:
        """Return the names of all characters of the split's alphabets."""
        return [
            character_name(alphabet.name, number)
            for alphabet in self._alphabets[split]
            for number in range(1, len(alphabet.characters) + 1)
        ]

    def preparation(self) -> Preparation:
        """Return how images are made ready: as they are, ink 1 on background 0."""
        return Preparation(image_size=SIDE, channels=1, mean=(0.0,), std=(1.0,))

    def make(self, split: Split, task_id: int, seed: int) -> ClassificationTask:
        """Return the task with minibatches and augmentation drawn from `seed`."""
        config = self._experiment.task
        rows = self._draw_rows(self._alphabets[split][task_id])
        num_train = config.num_train_drawings
        return ClassificationTask(
            self.dataset.images[rows[:, :num_train]],
            self.dataset.images[rows[:, num_train:]],
            seed=seed,
            batch_size=config.batch_size,
            augment=config.augment,
            device=self._device,
        )

    def _draw_rows(self, alphabet: Alphabet) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return image rows [W, training then held-out drawings] of the task's characters."""
        config = self._experiment.task
        generator = numpy_generator(self._experiment.seed, "characters", alphabet.name)
        characters = generator.permutation(len(alphabet.characters))[: config.num_ways]
        num_drawings = config.num_train_drawings + config.num_test_drawings
        return np.stack(
            [generator.permutation(alphabet.characters[i])[:num_drawings] for i in characters]
        )


def _usable_alphabets(experiment: Experiment, dataset: AlphabetSet) -> list[Alphabet]:
    """Return the alphabets that can be tasks; BadInputError if they are too few."""
    config = experiment.task
    num_drawings = config.num_train_drawings + config.num_test_drawings
    most_drawings = max(a.num_drawings for a in dataset.alphabets)
    if num_drawings > most_drawings:
        raise BadInputError(
            f"task.num_train_drawings={config.num_train_drawings} and task.num_test_drawings="
            f"{config.num_test_drawings}: {num_drawings} drawings a character; {dataset.name} has "
            f"{most_drawings}"
        )
    most_ways = max(len(a.characters) for a in dataset.alphabets)
    usable = [a for a in dataset.alphabets if len(a.characters) >= config.num_ways]
    if not usable:
        raise BadInputError(
            f"task.num_ways={config.num_ways}: the largest alphabet of {dataset.name} has "
            f"{most_ways} characters"
        )
    wanted = experiment.data.num_train_tasks + experiment.data.num_test_tasks
    if wanted > len(usable):
        raise BadInputError(
            f"data.num_train_tasks={experiment.data.num_train_tasks} and data.num_test_tasks="
            f"{experiment.data.num_test_tasks}: {wanted} alphabets; {dataset.name} has "
            f"{len(usable)} with at least {config.num_ways} characters (task.num_ways)"
        )
    return usable
