"""Regression of sinusoids from a few points: the tasks of Finn et al. (2017), section 5.1.

"Model-Agnostic Meta-Learning", arXiv:1703.03400: amplitudes in [0.1, 5], phases in [0, π] and
inputs in [-5, 5], each drawn uniformly; a target is amplitude · sin(input - phase), as in the
authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from algorithms.types import Encoder, Episode
from pipeline.messages import Split
from pipeline.tasks.draws import EpisodeSize

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, np.pi)
INPUT = (-5.0, 5.0)


@dataclass(frozen=True, slots=True)
class SinusoidSource:
    """For the record: nothing is read."""

    name: str = "sinusoids"
    source: str = "drawn: amplitude in [0.1, 5], phase in [0, pi], inputs in [-5, 5]"
    digest: str = ""


class SinusoidSampler:
    """Draws regression episodes of K support points and Q queries; interface of EpisodeSampler."""

    def __init__(
        self, sizes: Mapping[Split, EpisodeSize], device: torch.device | str = "cpu"
    ) -> None:
        self.source = SinusoidSource()
        self.mean: tuple[float, ...] = (0.0,)  # inputs are left as they are
        self.std: tuple[float, ...] = (1.0,)
        self._sizes = sizes
        self._device = torch.device(device)

    def profile(self, split: Split) -> dict[str, Any]:
        """Return how many points an episode has."""
        size = self._sizes[split]
        return {"num_shots": size.num_shots, "num_queries": size.num_queries}

    def has(self, split: Split) -> bool:
        """Return True: there is no end of sinusoids."""
        return True

    def class_names(self, split: Split) -> list[str]:
        """Return no names: sinusoids have no classes."""
        return []

    def encode(self, encoder: Encoder) -> bool:
        """Return False: points are drawn anew each time."""
        return False

    def minibatches(self, size: int, seeds: Sequence[int]) -> list[Episode]:
        """Raise NotImplementedError: sinusoids are drawn anew each time, so no class lasts."""
        raise NotImplementedError("sinusoids have no classes")

    def draw(self, split: Split, seeds: Sequence[int]) -> list[Episode]:
        """Return the episode of each seed, float32: inputs [·, 1] and targets [·, 1]."""
        size = self._sizes[split]
        drawn = [_draw_one(seed, size.num_shots + size.num_queries) for seed in seeds]
        points = np.stack(drawn).astype(np.float32)  # [episodes, 2, points, 1]
        num = size.num_shots
        return [
            Episode(x[:num], y[:num], x[num:], y[num:], num_ways=0)
            for x, y in torch.from_numpy(points).to(self._device)
        ]


def _draw_one(seed: int, num_points: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return inputs and targets, [2, points, 1]."""
    generator = np.random.Generator(np.random.PCG64(seed))
    amplitude, phase = generator.uniform(*AMPLITUDE), generator.uniform(*PHASE)
    inputs = generator.uniform(*INPUT, (num_points, 1))
    return np.stack([inputs, amplitude * np.sin(inputs - phase)])
