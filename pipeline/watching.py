"""An agent at play: which task is meant, adapting to it, and one episode as frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import nn

from algorithms.inner_loop import InnerLoop
from pipeline.config import Experiment
from pipeline.environments import WatchedEnvironment, check_game
from pipeline.errors import BadInputError
from pipeline.messages import Split
from pipeline.tasks.environment_pools import environment_pool
from pipeline.tasks.rollouts import Player
from pipeline.video import Frame

SPLITS: tuple[Split, ...] = ("test", "train")


@dataclass(frozen=True, slots=True)
class Place:
    """A task of an experiment."""

    experiment: Experiment
    split: Split
    number: int
    name: str


def find_task(experiment: Experiment, name: str) -> Place:
    """Return the task called `name`: a game, or a control task as tables name it.

    A game that is none of the experiment's joins the held-out ones, in the experiment that is
    returned. Of a control task what follows "#" is enough. BadInputError with the nearest names
    for an unknown one.
    """
    if experiment.task.kind == "atari":
        check_game(name)
        environments = experiment.environments
        if name not in (*environments.games, *environments.held_out):
            joined = environments.model_copy(update={"held_out": (*environments.held_out, name)})
            experiment = experiment.model_copy(update={"environments": joined})
    pool = environment_pool(experiment)
    known = [(split, i, n) for split in SPLITS for i, n in enumerate(pool.names(split))]
    short = [full.rpartition("#")[2] for _, _, full in known]
    for (split, number, full), ending in zip(known, short, strict=True):
        if name in (full, ending):
            return Place(experiment, split, number, full)
    near = get_close_matches(name, [*short, *(full for *_, full in known)], n=3) or short[:3]
    raise BadInputError(f"'{name}' is no task of the run (did you mean {' or '.join(near)}?)")


def adapt(
    loop: InnerLoop, num_steps: int, segment_steps: int, after_segment: Callable[[int], None]
) -> int:
    """Take `num_steps` inner steps, and return the env steps that they took.

    `after_segment` is told the inner steps of each segment.
    """
    env_steps = 0
    while loop.step < num_steps:
        count = min(segment_steps, num_steps - loop.step)
        env_steps = int(loop.run(count).figures["env_steps"][-1])
        after_segment(count)
    return env_steps


class WatchedEpisode:
    """One episode, played by `model` as it is, with actions drawn as in training.

    Attributes:
        episode_return: True return so far.
        length: Actions so far.
        has_ended: Whether the environment ended it, not the limit on its length.
    """

    def __init__(
        self, model: nn.Module, environment: WatchedEnvironment, seed: int, device: torch.device
    ) -> None:
        self._model = model
        self._environment = environment
        self._player = Player(environment, seed=seed, reward_clip=0.0, device=device)
        self.episode_return = 0.0
        self.length = 0
        self.has_ended = False

    def frames(self, max_steps: int) -> Iterator[Frame]:
        """Play, and yield what is seen before the first step and after each: at most 1 + that."""
        self._model.eval()
        self._player.restart()
        yield self._environment.frame()
        while self.length < max_steps and not self.has_ended:
            transition = self._player.act(self._model)
            self.episode_return += float(transition.rewards[0])
            self.length += 1
            self.has_ended = bool(transition.terminated[0] or transition.truncated[0])
            yield self._environment.frame()
