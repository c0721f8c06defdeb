"""Tiny experiments on episodes, and a meta-learner that the package does not know."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from algorithms.episodic.learner import EpisodeLearner, Predictor
from algorithms.types import Encoder
from pipeline.config import Experiment
from tests.pipeline.runs_for_tests import tiny


def tiny_episodes(**sections: Any) -> Experiment:
    """3-way 1-shot prototypical networks on glyphs: a second a run."""
    return tiny(
        **{
            "algorithm": {"name": "prototypical"},
            "model": {"num_filters": 4, "num_blocks": 2, "num_pooled_blocks": 2},
            "task": {"kind": "episodes"},
            "episodes": {"num_ways": 3, "num_queries": 3, "num_test": 6, "num_val": 4, "group": 2},
            "inner": {"precision": "float32"},
            "outer": {"optimizer": "adam", "lr": 0.01},
        }
        | sections
    )


class FirstPixels(EpisodeLearner):
    """Compares a linear map of the images; stands for a user's own learner."""

    any_way = True

    def __init__(
        self, encoder: Encoder, num_outputs: int, *, size: int = 4, transductive: bool = False
    ) -> None:
        super().__init__(encoder, num_outputs, transductive)
        self.map = nn.Linear(28 * 28, size)

    def predictor(self, support_x: Tensor, support_y: Tensor) -> Predictor:
        support = self.map(support_x.flatten(1))

        def predict(query_x: Tensor) -> Tensor:
            distances = (self.map(query_x.flatten(1))[:, None] - support).square().sum(dim=2)
            order = support_y.argsort()
            scores: Tensor = -distances[:, order]
            return scores + 0.0 * self.encoder(query_x).sum()

        return predict
