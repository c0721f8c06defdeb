"""Meta-learners by the names and options of an experiment: which family, built around what."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import algorithms
from algorithms import EpisodeLearner, InnerOptimizer, find_learner
from algorithms.types import Encoder, TrajectoryLearner
from pipeline.config import Experiment


def is_episodic(experiment: Experiment) -> bool:
    """Return whether the meta-learner's outer gradient is that of a loss of episodes."""
    return algorithms.is_episodic(find_learner(experiment.algorithm.name))


def is_joint(experiment: Experiment) -> bool:
    """Return whether meta-training is on minibatches of all its classes, in place of episodes."""
    found = find_learner(experiment.algorithm.name)
    return algorithms.is_episodic(found) and found.joint


def trajectory_learner(experiment: Experiment) -> TrajectoryLearner:
    """Return the meta-learner that watches inner loops."""
    make: Callable[..., Any] = find_learner(experiment.algorithm.name)
    learner: TrajectoryLearner = make(**experiment.algorithm.options)
    return learner


def episode_learner(experiment: Experiment, encoder: Encoder, num_outputs: int) -> EpisodeLearner:
    """Return the meta-learner of episodes around `encoder`, with `num_outputs` ways or targets."""
    make: Callable[..., Any] = find_learner(experiment.algorithm.name)
    learner: EpisodeLearner = make(encoder, num_outputs, **experiment.algorithm.options)
    return learner


def inner_optimizer(experiment: Experiment, num_steps: int) -> InnerOptimizer:
    """Return the optimizer of an inner loop of `num_steps`."""
    inner = experiment.inner
    return InnerOptimizer(
        inner.optimizer,
        lr=inner.lr,
        momentum=inner.momentum,
        beta1=inner.beta1,
        schedule=inner.schedule,
        num_steps=num_steps,
    )


def is_transductive(experiment: Experiment) -> bool:
    """Return whether the queries of an episode are answered together."""
    if not is_episodic(experiment):
        return experiment.evaluation.transductive
    options = experiment.algorithm.options
    parameter = signature(find_learner(experiment.algorithm.name)).parameters["transductive"]
    return bool(options.get("transductive", parameter.default))
