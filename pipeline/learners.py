"""Meta-learners by the names and options of an experiment: which family, built around what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import algorithms
from algorithms import EpisodeLearner, InnerOptimizer, find_learner
from algorithms.models.passed import Passed
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
    found = find_learner(experiment.algorithm.name)
    make: Callable[..., Any] = found
    for_either = algorithms.is_episodic(found) and len(found.kinds) > 1
    if for_either and experiment.task.kind == "sinusoids":
        make = partial(make, regression=True)
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
        alpha=inner.alpha,
        eps=inner.eps,
        max_grad_norm=inner.max_grad_norm,
        schedule=inner.schedule,
        num_steps=num_steps,
    )


def is_transductive(experiment: Experiment) -> bool:
    """Return whether the queries of an episode are answered together."""
    if not is_episodic(experiment):
        return experiment.evaluation.transductive
    # Options together decide, and only the learner knows how; one around nothing will tell.
    return episode_learner(experiment, Passed((2, 4, 4)), 2).transductive
