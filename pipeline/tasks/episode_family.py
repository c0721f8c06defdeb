"""Episodes as tasks: drawn without end to train on, a fixed list to be held out."""

from __future__ import annotations

from typing import Any

import torch

from algorithms.types import Encoder, Episode
from pipeline.config import Experiment
from pipeline.data.one_shot_runs import load_one_shot_runs, one_shot_episodes
from pipeline.learners import is_joint
from pipeline.messages import Split
from pipeline.seeding import derive_seed
from pipeline.tasks.episode_task import EpisodeTask
from pipeline.tasks.episodes import make_sampler
from pipeline.tasks.family import Source
from pipeline.tasks.shapes import Preparation, task_shape


class EpisodeFamily:
    """Every episode of an experiment.

    At all times an episode is a function of the root seed and of its place alone: outer step and
    place in the meta-batch for meta-training, its number for validation and test. So every
    method, at every outer step, answers the same held-out episodes.
    """

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        """Load the data; BadInputError if it has too little for what the keys ask."""
        self._experiment = experiment
        self._sampler = make_sampler(experiment, device)
        self._joint = is_joint(experiment)
        # Fixed episodes of the meta-test, in place of drawn ones.
        self._runs: list[Episode] = []
        self._runs_digest = ""
        if experiment.episodes.test == "one-shot-runs":
            runs = load_one_shot_runs()
            self._runs, self._runs_digest = one_shot_episodes(runs, device), runs.digest

    @property
    def dataset(self) -> Source:
        """Return the data set that the episodes are drawn from."""
        return self._sampler.source

    def num_tasks(self, split: Split) -> int:
        """Return the number of held-out episodes; 0 for meta-training, which has no end."""
        config = self._experiment.episodes
        num_test = len(self._runs) or config.num_test
        num_val = config.num_val if self._sampler.has("val") else 0
        return {"train": 0, "val": num_val, "test": num_test}[split]

    def task_name(self, split: Split, task_id: int) -> str:
        """Return the name of an episode."""
        if split == "test" and self._runs:
            return f"run{task_id + 1:02}"
        return f"episode-{task_id:06d}"

    def profile(self, split: Split) -> dict[str, Any]:
        """Return what says which episodes these are."""
        if split == "test" and self._runs:
            return {
                "episodes": len(self._runs),
                "num_ways": self._runs[0].num_ways,
                "num_shots": 1,
                "num_queries": 1,
                "one_shot_runs": self._runs_digest,
            }
        return self._sampler.profile(split) | {"episodes": self.num_tasks(split) or "without end"}

    def preparation(self) -> Preparation:
        """Return how images are made ready for the network."""
        shape = task_shape(self._experiment)
        return Preparation(
            shape.image_size, shape.in_channels, self._sampler.mean, self._sampler.std
        )

    def encode(self, encoder: Encoder) -> bool:
        """Give features in place of inputs from now on; return whether that is possible."""
        return not self._runs and self._sampler.encode(encoder)

    def group(self, meta_step: int, index: int) -> list[Episode]:
        """Return the meta-training episodes of place `index` in the meta-batch of `meta_step`.

        For a learner of all classes at once they are minibatches of `task.batch_size` images.
        """
        size = self._experiment.episodes.group
        places = range(index * size, (index + 1) * size)
        seeds = [self._seed("train", meta_step, i) for i in places]
        if self._joint:
            return self._sampler.minibatches(self._experiment.task.batch_size, seeds)
        return self._sampler.draw("train", seeds)

    def episode(self, split: Split, number: int) -> Episode:
        """Return the held-out episode `number`; of meta-training, one that no step trains on."""
        if split == "test" and self._runs:
            return self._runs[number]
        return self._sampler.draw(split, [self._seed(split, -1, number)])[0]

    def make(self, split: Split, task_id: int, seed: int) -> EpisodeTask:
        """Return an episode for an inner loop; in meta-training `seed` draws the episode too."""
        if split == "train":
            episode = self._sampler.draw("train", [derive_seed(seed, "episode")])[0]
        else:
            episode = self.episode(split, task_id)
        config = self._experiment
        return EpisodeTask(
            episode,
            seed=seed,
            batch_size=config.task.batch_size,
            transductive=config.evaluation.transductive,
        )

    def _seed(self, split: Split, meta_step: int, number: int) -> int:
        return derive_seed(self._experiment.seed, "episodes", split, meta_step, number)
