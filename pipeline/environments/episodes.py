"""Returns and lengths of the episodes that end, and which steps only reset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FinishedEpisodes:
    """The k episodes that ended in one step, in the order of their environments."""

    returns: NDArray[np.float64]  # [k], undiscounted sum of unclipped rewards
    env_steps: NDArray[np.int64]  # [k], actions taken; resets are not counted
    env_frames: NDArray[np.int64]  # [k], env_steps × frame skip
    environments: NDArray[np.intp]  # [k], which of the n copies


class EpisodeStatistics:
    """Adds up the rewards of n environments in NEXT_STEP autoreset.

    At all times, after `observe`:
      - `valid` [n] is False where the step just seen only reset, its action ignored;
      - the sums are of the episodes under way, 0 where one has just ended.
    """

    def __init__(self, num_envs: int, frames_per_step: int = 1) -> None:
        self.valid = np.ones(num_envs, dtype=np.bool_)
        self._frames_per_step = frames_per_step
        self._returns = np.zeros(num_envs, dtype=np.float64)
        self._env_steps = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=np.bool_)

    def reset(self) -> None:
        """Forget the episodes under way, as after `VectorEnvironment.reset`."""
        self.valid = np.ones_like(self.valid)
        self._returns[:] = 0
        self._env_steps[:] = 0
        self._ended = np.zeros_like(self._ended)

    def observe(
        self,
        rewards: NDArray[np.floating[Any]],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> FinishedEpisodes:
        """Take one step of all environments, each array [n]; return the episodes it ended.

        `valid` is a new array on each call.
        """
        self.valid = ~self._ended
        self._returns += rewards
        self._env_steps += self.valid
        self._ended = terminated | truncated
        (ended,) = self._ended.nonzero()
        env_steps = self._env_steps[ended]
        finished = FinishedEpisodes(
            self._returns[ended], env_steps, env_steps * self._frames_per_step, ended
        )
        self._returns[ended] = 0
        self._env_steps[ended] = 0
        return finished
