"""What learners that compare a query with the support set in feature space have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from contextlib import nullcontext

import torch
from torch import Tensor

from algorithms.episodic.learner import (
    EpisodeLearner,
    Predictor,
    batch_statistics,
    check_support,
    query_loss,
)
from algorithms.types import Episode, EpisodeResult


class MetricLearner(EpisodeLearner):
    """Encodes support set and queries, then compares them: nothing is trained per task.

    In training mode, and in evaluation if transductive, support set and queries pass the encoder
    as one batch, whose statistics the batch-norms use. Otherwise each is encoded by itself, with
    the running statistics. Episodes may have any number of ways, and classes differ in shots.
    """

    any_way = True

    @abstractmethod
    def compare(self, support: Tensor, support_y: Tensor, num_ways: int, query: Tensor) -> Tensor:
        """Return scores [Q, N] of queries for classes.

        Args:
            support: features [S, *feature_shape].
            support_y: int64 [S], each of 0 … N − 1 at least once.
            num_ways: N.
            query: features [Q, *feature_shape].
        """

    def scores_loss(self, scores: Tensor, query_y: Tensor) -> Tensor:
        """Return the loss (shape []) of `compare`'s scores [Q, N], given the labels [Q]."""
        return query_loss(scores, query_y)

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Predictor:
        """Return a function that compares queries with this support set.

        Raises:
            ValueError: the support set cannot be learned from, or its images or those of the
                queries (`support_x`, `query_x`) have the wrong size.
        """
        num_ways = check_support(support_x, support_y)
        if self.training or self.transductive:
            return lambda query_x: self._answer_together(support_x, support_y, num_ways, query_x)
        support = self._encode_as("support_x", support_x)
        return lambda query_x: self.compare(
            support, support_y, num_ways, self._encode_as("query_x", query_x)
        )

    def episode_loss(self, episode: Episode) -> EpisodeResult:
        """Return the loss of the scores of the queries, and the scores.

        In training mode the batch-norms' running statistics follow the episode.
        """
        together = self.transductive and not self.training
        with batch_statistics(self) if together else nullcontext():
            features = self.encode(torch.cat([episode.support_x, episode.query_x]))
            return self.features_loss(episode, *features.tensor_split([len(episode.support_x)]))

    def features_loss(self, episode: Episode, support: Tensor, query: Tensor) -> EpisodeResult:
        """Return the loss and the scores, given the features of support set and queries."""
        scores = self.compare(support, episode.support_y, episode.num_ways, query)
        return EpisodeResult(self.scores_loss(scores, episode.query_y), scores)

    def _answer_together(
        self, support_x: Tensor, support_y: Tensor, num_ways: int, query_x: Tensor
    ) -> Tensor:
        if query_x.shape[1:] != support_x.shape[1:]:
            raise ValueError(
                f"query_x: expected shape [Q, {', '.join(map(str, support_x.shape[1:]))}] as in "
                f"the support set, got {list(query_x.shape)}"
            )
        with batch_statistics(self):
            features = self._encode_as("support_x", torch.cat([support_x, query_x]))
            support, query = features.tensor_split([len(support_x)])
            return self.compare(support, support_y, num_ways, query)

    def _encode_as(self, name: str, inputs: Tensor) -> Tensor:
        features = self.encode(inputs)
        if features.shape[1:] != self.encoder.feature_shape:
            raise ValueError(
                f"{name}: examples of shape {list(inputs.shape[1:])} give features of shape "
                f"{list(features.shape[1:])}; the encoder was made for examples that give "
                f"{list(self.encoder.feature_shape)}"
            )
        return features


def log_sums(logits: Tensor, labels: Tensor, num_ways: int) -> Tensor:
    """Return [Q, N]: the log of the sum of exp(`logits` [Q, S]) over the examples of each class."""
    classes = torch.arange(num_ways, device=labels.device)
    others = labels[:, None] != classes  # [S, N]
    return logits[:, :, None].masked_fill(others, -math.inf).logsumexp(dim=1)


def check_positive(name: str, value: float) -> None:
    """Raise TypeError or ValueError, naming the option, unless `value` is positive and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a positive finite number, got {value!r}")


def check_count(name: str, value: int) -> None:
    """Raise TypeError or ValueError, naming the option, unless `value` is a whole number ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected 1 or more, got {value}")


def check_switch(name: str, value: bool) -> None:
    """Raise TypeError, naming the option, unless `value` is true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected true or false, got {value!r}")
