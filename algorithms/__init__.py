"""Meta-learning maths in plain torch: usable without the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TypeGuard

from algorithms.baselines import Finetune
from algorithms.episodic.classifier import Classifier
from algorithms.episodic.conditional_process import ConditionalClassifier, ConditionalRegressor
from algorithms.episodic.learned_optimizer import LearnedOptimizer
from algorithms.episodic.learner import EpisodeLearner
from algorithms.episodic.maml import MAML
from algorithms.episodic.matching import MatchingNetwork
from algorithms.episodic.memory import MemoryNetwork
from algorithms.episodic.prototypical import PrototypicalNetwork
from algorithms.episodic.relation import RelationNetwork
from algorithms.episodic.siamese import SiameseNetwork
from algorithms.episodic.sib import SIB
from algorithms.inner_loop import InnerLoop, InnerOptimizer
from algorithms.parameters import ParameterVector, capture_buffers, restore_buffers
from algorithms.trajectory.fomaml import FOMAML
from algorithms.trajectory.leap import Leap
from algorithms.trajectory.reptile import Reptile
from algorithms.types import TrajectoryLearner

# A new meta-learner is its file, one line here and its test.
TRAJECTORY_LEARNERS: dict[str, Callable[..., TrajectoryLearner]] = {
    "leap": Leap,
    "reptile": Reptile,
    "fomaml": FOMAML,
    "finetune": Finetune,
}
EPISODE_LEARNERS: dict[str, type[EpisodeLearner]] = {
    "classifier": Classifier,
    "conditional_process": ConditionalClassifier,
    "conditional_process_regression": ConditionalRegressor,
    "learned_optimizer": LearnedOptimizer,
    "maml": MAML,
    "matching": MatchingNetwork,
    "memory": MemoryNetwork,
    "prototypical": PrototypicalNetwork,
    "relation": RelationNetwork,
    "siamese": SiameseNetwork,
    "sib": SIB,
}
MetaLearner = Callable[..., TrajectoryLearner] | type[EpisodeLearner]
META_LEARNERS: dict[str, MetaLearner] = {**TRAJECTORY_LEARNERS, **EPISODE_LEARNERS}


def find_learner(name: str) -> MetaLearner:
    """Return the class of the meta-learner `name`: one of META_LEARNERS, or `module:Class`.

    Raises LookupError, with what is wrong, if there is none.
    """
    if name in META_LEARNERS:
        return META_LEARNERS[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise LookupError(f"unknown meta-learner '{name}'")
    try:
        found: MetaLearner = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise LookupError(f"'{name}' cannot be imported: {error}") from None
    if not is_episodic(found) and not hasattr(found, "start"):
        raise LookupError(
            f"'{name}' is no meta-learner: expected a class derived from EpisodeLearner, or one "
            "with `start` and `multi_head` (algorithms/types.py)"
        )
    return found


def is_episodic(learner: MetaLearner) -> TypeGuard[type[EpisodeLearner]]:
    """Return whether `learner` is a class of learners of episodes."""
    return isinstance(learner, type) and issubclass(learner, EpisodeLearner)


__all__ = [
    "EPISODE_LEARNERS",
    "FOMAML",
    "MAML",
    "META_LEARNERS",
    "SIB",
    "TRAJECTORY_LEARNERS",
    "Classifier",
    "ConditionalClassifier",
    "ConditionalRegressor",
    "EpisodeLearner",
    "Finetune",
    "InnerLoop",
    "InnerOptimizer",
    "Leap",
    "LearnedOptimizer",
    "MatchingNetwork",
    "MemoryNetwork",
    "ParameterVector",
    "PrototypicalNetwork",
    "RelationNetwork",
    "Reptile",
    "SiameseNetwork",
    "capture_buffers",
    "find_learner",
    "is_episodic",
    "restore_buffers",
]
