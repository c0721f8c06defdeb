"""What every environment looks like to a learner: copies stepped together, NumPy in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInputError
from pipeline.seeding import derive_seed

Observations: TypeAlias = NDArray[Any]
"""[n, *observation_shape]: uint8 images, channels first, or float32 vectors."""

MAX_SEED = 2**31 - 1  # ALE and gymnasium keep seeds in 32 signed bits


@dataclass(frozen=True, slots=True)
class DiscreteActions:
    """One of `count` actions; a batch is integers [n] in [0, count)."""

    count: int


@dataclass(frozen=True, slots=True)
class BoxActions:
    """A vector of floats; a batch is float32 [n, *shape], clipped to [low, high] by `step`."""

    shape: tuple[int, ...]
    low: tuple[float, ...]  # one bound for each element, row by row; may be infinite
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Transition:
    """What one step of n environments gave. Each array is new: the caller may keep it."""

    observations: Observations  # after the step; an ended episode's own last one where it ended
    rewards: NDArray[np.float32]  # [n], as the environment gives them, never clipped
    terminated: NDArray[np.bool_]  # [n], the task itself ended: nothing to bootstrap from
    truncated: NDArray[np.bool_]  # [n], cut off by a limit; never true where `terminated` is


class VectorEnvironment(Protocol):
    """`num_envs` independent copies of one environment, in gymnasium's NEXT_STEP autoreset.

    The step after an episode's end ignores its action and returns the first observation of the
    next episode with reward 0 and neither flag set; `EpisodeStatistics.valid` tells such steps
    apart. The same seed and actions give bitwise the same of everything; instances do not
    influence one another.
    """

    @property
    def num_envs(self) -> int:
        """Copies that step together."""
        ...

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation: (channels, height, width) for images."""
        ...

    @property
    def observation_dtype(self) -> np.dtype[Any]:
        """uint8 for images, float32 for vectors."""
        ...

    @property
    def action_space(self) -> DiscreteActions | BoxActions:
        """What `step` takes."""
        ...

    def reset(self, seed: int) -> Observations:
        """Begin a new episode everywhere; all later draws follow from `seed`, any integer."""
        ...

    def step(self, actions: NDArray[Any]) -> Transition:
        """Act once everywhere.

        ValueError if `actions` do not fit the action space; EnvironmentFailedError if an
        environment raises.
        """
        ...

    def close(self) -> None:
        """Free what the environments hold; nothing may be called afterwards."""
        ...


def environment_seeds(seed: int, num_envs: int) -> NDArray[np.int64]:
    """Return a seed in [1, 2**31) for each copy, [n].

    Consecutive seeds, as ALE and gymnasium would use, would let two tasks with neighbouring
    seeds share most of their environments.
    """
    drawn = [derive_seed(seed, "environment", i) % MAX_SEED + 1 for i in range(num_envs)]
    return np.array(drawn, dtype=np.int64)


def check_num_envs(num_envs: int) -> None:
    """BadInputError unless there is at least one copy."""
    if num_envs < 1:
        raise BadInputError(f"num_envs is {num_envs}, expected at least 1 environment")


def checked_discrete(actions: NDArray[Any], num_envs: int, count: int) -> NDArray[np.int64]:
    """Return discrete actions as int64 [n], or ValueError if one is none."""
    if actions.shape != (num_envs,) or actions.dtype.kind not in "iu":
        raise ValueError(
            f"actions are {actions.dtype} {list(actions.shape)}, expected integers [{num_envs}]"
        )
    if actions.min() < 0 or actions.max() >= count:
        raise ValueError(
            f"actions lie in [{actions.min()}, {actions.max()}], expected 0 to {count - 1}"
        )
    return actions.astype(np.int64, copy=False)
