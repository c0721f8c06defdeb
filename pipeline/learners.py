"""Meta-learners by the names and options of an experiment: which family, built around what."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

from algorithms import EPISODE_LEARNERS, TRAJECTORY_LEARNERS, EpisodeLearner
from algorithms.types import Encoder, TrajectoryLearner
from pipeline.config import Experiment


def is_episodic(experiment: Experiment) -> bool:
    """Return whether the meta-learner's outer gradient is that of a loss of episodes."""
    return experiment.algorithm.name in EPISODE_LEARNERS


def trajectory_learner(experiment: Experiment) -> TrajectoryLearner:
    """Return the meta-learner that watches inner loops."""
    return TRAJECTORY_LEARNERS[experiment.algorithm.name](**experiment.algorithm.options)


def episode_learner(experiment: Experiment, encoder: Encoder, num_outputs: int) -> EpisodeLearner:
    """Return the meta-learner of episodes around `encoder`, with `num_outputs` ways or targets."""
    make: Callable[..., EpisodeLearner] = EPISODE_LEARNERS[experiment.algorithm.name]
    return make(encoder, num_outputs, **experiment.algorithm.options)


def is_transductive(experiment: Experiment) -> bool:
    """Return whether the queries of an episode are answered together."""
    if not is_episodic(experiment):
        return experiment.evaluation.transductive
    options = experiment.algorithm.options
    parameter = signature(EPISODE_LEARNERS[experiment.algorithm.name]).parameters["transductive"]
    return bool(options.get("transductive", parameter.default))
