"""Which environments are the tasks of an experiment: drawn physics, or games."""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import version
from typing import Any

from pipeline.config import Experiment
from pipeline.config_environments import EnvironmentsConfig
from pipeline.environments import (
    PHYSICS,
    AtariEnvironment,
    AtariOptions,
    BoxActions,
    VectorEnvironment,
    WatchedControl,
    WatchedEnvironment,
    WatchedGame,
    draw_physics,
    make_environment,
)
from pipeline.environments.atari_games import human_normalized
from pipeline.errors import BadInputError
from pipeline.messages import Split
from pipeline.seeding import derive_seed
from pipeline.tasks.shapes import TaskShape

MOST_ACTIONS = 18  # of any Atari game


class ControlPool:
    """Tasks of `task.kind=control`: one environment, the physics of each drawn.

    A task's physics follow from the root seed, its split and its number, and are as good as
    never the same in two tasks: they are drawn from intervals.
    """

    def __init__(self, experiment: Experiment) -> None:
        """Check that the environment can be made; BadInputError names the key to blame."""
        self._experiment = experiment
        self._config = experiment.environments
        self.source = f"gymnasium {version('gymnasium')}"
        try:
            self.physics("train", 0)
        except BadInputError as error:
            raise BadInputError(f"environments.vary={list(self._config.vary)}: {error}") from None
        try:
            environment = self._make({}, num_envs=1)
        except BadInputError as error:
            raise BadInputError(f"environments.name={self._config.name}: {error}") from None
        self._observation_shape = environment.observation_shape
        self._action_space = environment.action_space
        environment.close()

    def names(self, split: Split) -> tuple[str, ...]:
        """Return the names of the split's tasks."""
        counts = {"train": self._config.num_train, "test": self._config.num_held_out}
        return tuple(f"{self._config.name} #{split}-{i}" for i in range(counts.get(split, 0)))

    def profile(self, split: Split) -> dict[str, Any]:
        """Return what says which tasks these are, besides their names."""
        count = len(self.names(split))
        drawn = [
            ", ".join(f"{name} {value:.4g}" for name, value in self.physics(split, i).items())
            for i in range(count)
        ]
        return {"physics": "; ".join(drawn)}

    def physics(self, split: Split, number: int) -> dict[str, float]:
        """Return the physics of a task; none for an environment that has none to draw."""
        if self._config.name not in PHYSICS and not self._config.vary:
            return {}
        seed = derive_seed(self._experiment.seed, "physics", split, number)
        return draw_physics(self._config.name, seed, self._config.vary)

    def make(self, split: Split, number: int) -> VectorEnvironment:
        """Return the environment of a task."""
        return self._make(self.physics(split, number), self._config.num_envs)

    def watched(self, split: Split, number: int) -> WatchedEnvironment:
        """Return a single copy of a task's environment that can be looked at."""
        return WatchedControl(self._config.name, **self.physics(split, number))

    def normalized(self, split: Split, number: int, score: float) -> float | None:
        """Return None: no scores of such environments are published."""
        return None

    def shape(self) -> TaskShape:
        """Return what goes into a network and comes out of it."""
        space = self._action_space
        continuous = isinstance(space, BoxActions)
        num_outputs = space.shape[0] if isinstance(space, BoxActions) else space.count
        channels, *sides = self._observation_shape
        if len(set(sides)) > 1:
            raise BadInputError(
                f"environments.name={self._config.name}: images of {sides[0]} by {sides[1]} pixels;"
                " expected square ones, which a gymnasium wrapper can make"
            )
        return TaskShape(channels, sides[0] if sides else 0, num_outputs, continuous)

    def _make(self, physics: dict[str, float], num_envs: int) -> VectorEnvironment:
        return make_environment(self._config.name, num_envs, **physics)


class AtariPool:
    """Tasks of `task.kind=atari`: a game each."""

    def __init__(self, experiment: Experiment) -> None:
        self._config = experiment.environments
        self._options = atari_options(self._config)
        self.source = f"ale-py {version('ale-py')}"

    def names(self, split: Split) -> tuple[str, ...]:
        """Return the games of the split."""
        by_split = {"train": self._config.games, "test": self._config.held_out}
        return by_split.get(split, ())

    def profile(self, split: Split) -> dict[str, Any]:
        """Return nothing: the names say it."""
        return {}

    def make(self, split: Split, number: int) -> VectorEnvironment:
        """Return the environment of a game."""
        game = self.names(split)[number]
        return AtariEnvironment(game, self._config.num_envs, self._options, self._config.threads)

    def watched(self, split: Split, number: int) -> WatchedEnvironment:
        """Return a single copy of a game that can be looked at."""
        return WatchedGame(self.names(split)[number], self._options)

    def normalized(self, split: Split, number: int, score: float) -> float | None:
        """Return 0 for random play and 1 for a human's; None if none was published."""
        return human_normalized(self.names(split)[number], score)

    def shape(self) -> TaskShape:
        """Return what goes into a network and comes out of it.

        There is an output for each action that any game has; a game uses the first of them.
        """
        channels = self._options.stack_num * (1 if self._options.grayscale else 3)
        return TaskShape(channels, self._config.image_size, MOST_ACTIONS)


def environment_pool(experiment: Experiment) -> ControlPool | AtariPool:
    """Return the environments of `experiment`; BadInputError if they cannot be made."""
    return AtariPool(experiment) if experiment.task.kind == "atari" else ControlPool(experiment)


def atari_options(config: EnvironmentsConfig) -> AtariOptions:
    """Return how games are played, in ALE's own terms."""
    side = config.image_size
    options: dict[str, Any] = {"img_height": side, "img_width": side}
    for field in fields(AtariOptions):
        if field.name not in options:
            options[field.name] = getattr(config, field.name)
    return AtariOptions(**options)
