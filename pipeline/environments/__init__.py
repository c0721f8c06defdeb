"""Environments for reinforcement learning: many copies stepped together, NumPy in and out."""

from pipeline.environments.atari import (
    LEAP_OPTIONS,
    NATURE_OPTIONS,
    AtariEnvironment,
    AtariOptions,
    check_game,
    playable_games,
)
from pipeline.environments.control import PHYSICS, draw_physics, make_environment
from pipeline.environments.episodes import EpisodeStatistics, FinishedEpisodes
from pipeline.environments.timed import TimedCall, TimedEnvironment, TimedThread
from pipeline.environments.vector import (
    BoxActions,
    DiscreteActions,
    Transition,
    VectorEnvironment,
)
from pipeline.environments.watched import WatchedControl, WatchedEnvironment, WatchedGame

__all__ = [
    "LEAP_OPTIONS",
    "NATURE_OPTIONS",
    "PHYSICS",
    "AtariEnvironment",
    "AtariOptions",
    "BoxActions",
    "DiscreteActions",
    "EpisodeStatistics",
    "FinishedEpisodes",
    "TimedCall",
    "TimedEnvironment",
    "TimedThread",
    "Transition",
    "VectorEnvironment",
    "WatchedControl",
    "WatchedEnvironment",
    "WatchedGame",
    "check_game",
    "draw_physics",
    "make_environment",
    "playable_games",
]
