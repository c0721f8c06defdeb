"""Atari games through ALE's own vector environment: emulation and preprocessing in C++ threads.

Preprocessing after Mnih et al. (2015), doi:10.1038/nature14236; the evaluation protocol (sticky
actions, full action set) after Machado et al. (2018), arXiv:1709.06009.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

import gymnasium
import numpy as np
from ale_py import roms
from ale_py.registration import rom_id_to_name
from ale_py.vector_env import AtariVectorEnv
from numpy.typing import NDArray

from pipeline.environments.vector import (
    DiscreteActions,
    Observations,
    Transition,
    check_num_envs,
    checked_discrete,
    environment_seeds,
)
from pipeline.errors import BadInputError


@dataclass(frozen=True, slots=True)
class AtariOptions:
    """How a game is played and shown; each name is ALE's own.

    Attributes:
        frameskip: emulator frames an action is held for.
        maxpool: show the maximum of the last two frames, against sprites that flicker. ALE does
            this only where `frameskip` is 2 or more.
        grayscale: one channel a frame, or RGB's three.
        stack_num: latest observations shown together, oldest first; zeros before the first.
        img_height: rows of an observation (the screen has 210).
        img_width: columns of an observation (the screen has 160).
        noop_max: fewer than this many idle frames begin an episode, drawn at random.
        use_fire_reset: press FIRE once after a reset, where the action set has it. The full
            action set always has it.
        episodic_life: a lost life ends the episode (`terminated`). ALE then begins the whole
            game again, unlike wrappers that go on with the next life.
        repeat_action_probability: sticky actions, drawn for every frame; 0.25 in Machado et al.
        full_action_space: all 18 actions, so that one policy head fits every game.
        max_num_frames_per_episode: emulator frames after which an episode is `truncated`.
    """

    frameskip: int = 4
    maxpool: bool = True
    grayscale: bool = True
    stack_num: int = 4
    img_height: int = 84
    img_width: int = 84
    noop_max: int = 30
    use_fire_reset: bool = True
    episodic_life: bool = False
    repeat_action_probability: float = 0.0
    full_action_space: bool = False
    max_num_frames_per_episode: int = 108_000  # half an hour of play

    def __post_init__(self) -> None:
        """BadInputError for a value out of its range: ALE would end the process, or hang."""
        for name in ("frameskip", "stack_num", "img_height", "img_width"):
            self._expect(name, getattr(self, name) >= 1, "at least 1")
        self._expect("noop_max", self.noop_max >= 0, "at least 0")
        self._expect(
            "max_num_frames_per_episode", self.max_num_frames_per_episode >= 1, "at least 1"
        )
        sticky = 0 <= self.repeat_action_probability < 1
        self._expect("repeat_action_probability", sticky, "a probability below 1")

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise BadInputError(f"{name} is {getattr(self, name)}, expected {expected}")


NATURE_OPTIONS = AtariOptions()
"""Four stacked grey frames, as in Mnih et al. (2015)."""

LEAP_OPTIONS = AtariOptions(grayscale=False, stack_num=1)
"""One frame in colour, as in Flennerhag et al. (2019), arXiv:1812.01054, appendix F."""


@cache
def playable_games() -> tuple[str, ...]:
    """Return every game that ALE can play alone, in alphabetical order.

    A ROM without a wrapper, or one for two players only, would end the process from C++; the
    registered environments are those that have what they need.
    """
    registered = (
        rom for rom in roms.get_all_rom_ids() if _environment_id(rom) in gymnasium.registry
    )
    return tuple(sorted(registered))


def check_game(game: str) -> None:
    """BadInputError, with the nearest names, if `game` cannot be played."""
    if game in playable_games():
        return
    spelled = "_".join(game.lower().replace("-", " ").replace("_", " ").split())
    near = get_close_matches(spelled, playable_games(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "names are like space_invaders"
    raise BadInputError(f"'{game}' is no Atari game that ALE plays alone ({hint})")


class AtariEnvironment:
    """A `VectorEnvironment` of one game.

    Observations are uint8 [n, channels, height, width], channels being `stack_num`, times 3 in
    colour (the frames one after another, RGB each). Grey ones are contiguous. Those of a single
    colour frame are a view of [n, height, width, 3], so that torch takes them as channels-last
    without a copy.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        options: AtariOptions = NATURE_OPTIONS,
        num_threads: int = 1,
    ) -> None:
        """Load the game; BadInputError for one that is not known or for no environments."""
        check_game(game)
        check_num_envs(num_envs)
        if num_threads < 1:
            raise BadInputError(f"num_threads is {num_threads}, expected at least 1")
        self.game = game
        self.options = options
        self.num_envs = num_envs
        # Never all environments' own threads: ALE's 0 would take every core of the machine.
        self._envs = AtariVectorEnv(
            game,
            num_envs,
            num_threads=min(num_threads, num_envs),
            reward_clipping=False,
            **asdict(options),
        )
        channels = options.stack_num * (1 if options.grayscale else 3)
        self.observation_shape = (channels, options.img_height, options.img_width)
        self.observation_dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.action_space = DiscreteActions(len(self._envs.ale.get_action_set()))

    def reset(self, seed: int) -> Observations:
        """Begin a new game everywhere."""
        frames, _ = self._envs.reset(seed=environment_seeds(seed, self.num_envs))
        return self._channels_first(frames)

    def step(self, actions: NDArray[Any]) -> Transition:
        """Hold each action for `frameskip` frames; rewards are the game's points."""
        # An action that is none would end ALE's thread, and `step` would wait for ever.
        checked = checked_discrete(actions, self.num_envs, self.action_space.count)
        frames, rewards, terminated, truncated, _ = self._envs.step(checked)
        return Transition(
            self._channels_first(frames), rewards.astype(np.float32), terminated, truncated
        )

    def close(self) -> None:
        """End ALE's threads."""
        self._envs.close()
        del self._envs.ale  # its destructor joins the threads; gymnasium's `close` does not

    def _channels_first(self, frames: NDArray[np.uint8]) -> Observations:
        """From ALE's [n, stack, height, width], or [n, stack, height, width, 3] in colour."""
        if self.options.grayscale:
            return frames
        return frames.transpose(0, 1, 4, 2, 3).reshape(self.num_envs, *self.observation_shape)


def _environment_id(rom: str) -> str:
    return f"ALE/{rom_id_to_name(rom)}-v5"
