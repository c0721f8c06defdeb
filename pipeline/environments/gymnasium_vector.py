"""Any gymnasium vector environment as a `VectorEnvironment`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from pipeline.environments.vector import (
    BoxActions,
    DiscreteActions,
    Observations,
    Transition,
    checked_discrete,
    environment_seeds,
)
from pipeline.errors import BadInputError, EnvironmentFailedError


class GymnasiumEnvironment:
    """A `VectorEnvironment` around gymnasium's, which must be in NEXT_STEP autoreset.

    Images (uint8 [height, width, channels]) are handed out channels first, as views that torch
    takes as channels-last without a copy; vectors as contiguous float32.
    """

    def __init__(self, name: str, envs: VectorEnv[Any, Any, Any]) -> None:
        """Take `envs`, called `name` in messages; BadInputError for an unsupported space."""
        if envs.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
            raise BadInputError(f"environment {name}: expected NEXT_STEP autoreset")
        self.name = name
        self.num_envs = envs.num_envs
        self._envs = envs
        space = envs.single_observation_space
        self._images, self.observation_shape = _observation_layout(name, space)
        self.observation_dtype: np.dtype[Any] = np.dtype(np.uint8 if self._images else np.float32)
        self.action_space = _action_space(name, envs.single_action_space)
        self._action_dtype = envs.single_action_space.dtype
        self._first_action = int(getattr(envs.single_action_space, "start", 0))

    def reset(self, seed: int) -> Observations:
        """Begin a new episode everywhere."""
        seeds = [int(one) for one in environment_seeds(seed, self.num_envs)]
        with self._failing("reset"):
            if isinstance(self._envs, SyncVectorEnv):
                observations, _ = self._envs.reset(seed=list(seeds))
            else:  # one generator for all copies
                observations, _ = self._envs.reset(seed=seeds[0])
        return self._laid_out(observations)

    def step(self, actions: NDArray[Any]) -> Transition:
        """Act once everywhere."""
        fitting = self._fitting(actions)
        with self._failing("step"):
            observations, rewards, terminated, truncated, _ = self._envs.step(fitting)
        return Transition(
            self._laid_out(observations),
            np.array(rewards, dtype=np.float32),
            np.array(terminated, dtype=np.bool_),
            # An environment may end by itself in the very step of its time limit.
            truncated & ~terminated,
        )

    def close(self) -> None:
        """Close every copy."""
        self._envs.close()

    def _fitting(self, actions: NDArray[Any]) -> NDArray[Any]:
        space = self.action_space
        if isinstance(space, DiscreteActions):
            return checked_discrete(actions, self.num_envs, space.count) + self._first_action
        shape = (self.num_envs, *space.shape)
        if actions.shape != shape or not np.isfinite(actions).all():
            raise ValueError(f"actions are {list(actions.shape)}, expected finite {list(shape)}")
        low, high = (np.reshape(bound, space.shape) for bound in (space.low, space.high))
        clipped: NDArray[Any] = np.clip(actions, low, high)
        return clipped.astype(self._action_dtype, copy=False)

    def _laid_out(self, observations: NDArray[Any]) -> Observations:
        if self._images:
            return observations.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(observations, dtype=np.float32)

    @contextmanager
    def _failing(self, doing: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise EnvironmentFailedError(
                f"environment {self.name}: {doing} raised {type(error).__name__}: {reason}"
            ) from error


def check_supported(name: str, env: gymnasium.Env[Any, Any]) -> None:
    """BadInputError if a learner here cannot observe `env` or act in it."""
    _observation_layout(name, env.observation_space)
    _action_space(name, env.action_space)


def _observation_layout(name: str, space: spaces.Space[Any]) -> tuple[bool, tuple[int, ...]]:
    """Whether observations are images, and the shape in which one is handed out."""
    if isinstance(space, spaces.Box):
        if len(space.shape) == 1:
            return False, space.shape
        if len(space.shape) == 3 and space.dtype == np.uint8 and space.shape[2] <= 4:
            height, width, channels = space.shape
            return True, (channels, height, width)
    raise BadInputError(
        f"environment {name}: observations are {_short(space)}, expected a Box of one dimension "
        "or of uint8 images [height, width, channels]; a gymnasium wrapper can convert them"
    )


def _action_space(name: str, space: spaces.Space[Any]) -> DiscreteActions | BoxActions:
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(int(space.n))
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and len(space.shape) == 1:
        return BoxActions(space.shape, tuple(space.low.tolist()), tuple(space.high.tolist()))
    raise BadInputError(
        f"environment {name}: actions are {_short(space)}, expected Discrete or a Box of floats "
        "of one dimension; a gymnasium wrapper can convert them"
    )


def _short(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Box):
        return f"a Box {list(space.shape)} of {space.dtype}"
    return f"a {type(space).__name__} space"
