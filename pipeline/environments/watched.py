"""Single environments that can be looked at while an agent acts in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.environments.atari import AtariEnvironment, AtariOptions
from pipeline.environments.control import make_drawn
from pipeline.environments.vector import Observations, Transition, VectorEnvironment
from pipeline.errors import BadInputError, EnvironmentFailedError

SCREEN_HEIGHT, SCREEN_WIDTH = 210, 160
CONSOLE_FRAMES_PER_S = 60
DEFAULT_FRAMES_PER_S = 30  # of an environment that does not say how fast it is to be shown


class WatchedEnvironment(VectorEnvironment, Protocol):
    """A `VectorEnvironment` of one copy that shows what there is to see after each step."""

    frames_per_s: float  # steps in a second of play at the environment's own pace

    def frame(self) -> NDArray[np.uint8]:
        """Return the picture of now, RGB [height, width, 3]; after `reset`, and each step."""
        ...


class WatchedGame:
    """A game in two copies in lockstep: as the learner sees it, and on a screen in full colour.

    Both begin from the same seed and get the same actions, so that ALE, which is deterministic,
    plays the same game twice.
    """

    def __init__(self, game: str, options: AtariOptions) -> None:
        """Load the game twice; BadInputError for one that is not known."""
        on_screen = replace(
            options, grayscale=False, stack_num=1, img_height=SCREEN_HEIGHT, img_width=SCREEN_WIDTH
        )
        self.seen = AtariEnvironment(game, 1, options)
        self.screen = AtariEnvironment(game, 1, on_screen)
        self.num_envs = 1
        self.observation_shape = self.seen.observation_shape
        self.observation_dtype = self.seen.observation_dtype
        self.action_space = self.seen.action_space
        self.frames_per_s = CONSOLE_FRAMES_PER_S / options.frameskip
        self._shown: Observations

    def reset(self, seed: int) -> Observations:
        """Begin a new game in both."""
        self._shown = self.screen.reset(seed)
        return self.seen.reset(seed)

    def step(self, actions: NDArray[Any]) -> Transition:
        """Act in both; what the learner sees is returned."""
        transition, shown = self.seen.step(actions), self.screen.step(actions)
        for name in ("rewards", "terminated", "truncated"):
            if (getattr(transition, name) != getattr(shown, name)).any():
                raise EnvironmentFailedError(
                    f"environment {self.seen.game}: two copies of one game differ in {name}"
                )
        self._shown = shown.observations
        return transition

    def frame(self) -> NDArray[np.uint8]:
        """Return the screen, [210, 160, 3]: the maximum of two frames where `maxpool` is on."""
        return np.ascontiguousarray(self._shown[0].transpose(1, 2, 0))

    def close(self) -> None:
        """End both."""
        self.seen.close()
        self.screen.close()


class WatchedControl:
    """A single copy of a gymnasium environment that draws itself (`rgb_array`)."""

    def __init__(self, name: str, **physics: Any) -> None:
        """Make it and draw it once; BadInputError if it cannot be drawn."""
        self._envs, self._environment = make_drawn(name, **physics)
        self.name = name
        self.num_envs = 1
        self.observation_shape = self._environment.observation_shape
        self.observation_dtype = self._environment.observation_dtype
        self.action_space = self._environment.action_space
        self.frames_per_s = float(self._envs.metadata.get("render_fps") or DEFAULT_FRAMES_PER_S)
        try:
            self.reset(0)
            self.frame()
        except BaseException:
            self.close()
            raise

    def reset(self, seed: int) -> Observations:
        """Begin a new episode."""
        return self._environment.reset(seed)

    def step(self, actions: NDArray[Any]) -> Transition:
        """Act once."""
        return self._environment.step(actions)

    def frame(self) -> NDArray[np.uint8]:
        """Return what the environment draws; BadInputError if it does not."""
        try:
            drawn = self._envs.render()
        except Exception as error:  # anybody's code, and pygame may not be there
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadInputError(f"environment {self.name} cannot be drawn: {reason}") from error
        picture = np.asarray(drawn[0] if drawn else None)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise BadInputError(
                f"environment {self.name} cannot be drawn: expected an RGB picture (uint8 "
                "[height, width, 3]) of render_mode 'rgb_array'"
            )
        return picture

    def close(self) -> None:
        """Close it."""
        self._environment.close()
