"""What learners that compare a query with the support set in feature space have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from algorithms.episodic.features import one_hot
from algorithms.episodic.learner import EpisodeLearner, Predictor, batch_statistics, query_loss
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

    def predictor(self, support_x: Tensor, support_y: Tensor) -> Predictor:
        """Return a function that compares queries with this support set."""
        num_ways = int(support_y.max()) + 1
        if self.training or self.transductive:
            return partial(self._answer_together, support_x, support_y, num_ways)
        support = self.encode(support_x)
        return lambda query_x: self.compare(support, support_y, num_ways, self.encode(query_x))

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
        with batch_statistics(self):
            features = self.encode(torch.cat([support_x, query_x]))
            support, query = features.tensor_split([len(support_x)])
            return self.compare(support, support_y, num_ways, query)


def log_sums(logits: Tensor, labels: Tensor, num_ways: int) -> Tensor:
    """Return [Q, N]: the log of the sum of exp(`logits` [Q, S]) over the examples of each class.

    The sum over a class is of exp(logit − the class's largest one), so that none underflows.
    """
    places = labels.expand_as(logits)
    largest = logits.new_full((len(logits), num_ways), -math.inf)
    largest = largest.scatter_reduce(1, places, logits.detach(), "amax")
    shares = (logits - largest.gather(1, places)).exp()
    return (shares @ one_hot(labels, num_ways, logits)).log() + largest
