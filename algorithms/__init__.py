"""Meta-learning maths in plain torch: usable without the pipeline."""

from __future__ import annotations

from collections.abc import Callable

from algorithms.baselines import Finetune
from algorithms.episodic.classifier import Classifier
from algorithms.episodic.conditional_process import ConditionalClassifier, ConditionalRegressor
from algorithms.episodic.learner import EpisodeLearner
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
    "matching": MatchingNetwork,
    "memory": MemoryNetwork,
    "prototypical": PrototypicalNetwork,
    "relation": RelationNetwork,
    "siamese": SiameseNetwork,
    "sib": SIB,
}
META_LEARNERS: dict[str, Callable[..., TrajectoryLearner] | type[EpisodeLearner]] = {
    **TRAJECTORY_LEARNERS,
    **EPISODE_LEARNERS,
}

__all__ = [
    "EPISODE_LEARNERS",
    "FOMAML",
    "META_LEARNERS",
    "TRAJECTORY_LEARNERS",
    "EpisodeLearner",
    "Finetune",
    "InnerLoop",
    "InnerOptimizer",
    "Leap",
    "ParameterVector",
    "Reptile",
    "capture_buffers",
    "restore_buffers",
]
