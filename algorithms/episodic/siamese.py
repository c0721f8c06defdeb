"""Siamese networks: learn whether two images show the same class, then ask for each class.

Koch, Zemel and Salakhutdinov (2015), "Siamese Neural Networks for One-shot Image Recognition",
ICML Deep Learning Workshop: similarity in section 3.1, loss in 3.2, N-way test in 4.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from algorithms.episodic.features import full_precision, one_hot
from algorithms.episodic.metric import MetricLearner, log_sums
from algorithms.episodic.options import check_switch
from algorithms.types import Encoder, Episode, EpisodeResult


class SiameseNetwork(MetricLearner):
    """Trained on all pairs of an episode's examples; answers by the class that is most alike.

    The belief that two examples are of one class is p = σ(Σ_j α_j |f_j − f′_j| + β) with learned
    α and β. It is trained with binary cross-entropy on the pairs of different examples of the
    episode, support set and queries together. A class's score is the log of the mean p of a
    query with the class's support examples: with one shot, the paper's argmax of p. Features
    are the encoder's; the paper's are those of a further sigmoid layer.

    Args:
        encoder: Maps inputs to features, which are flattened.
        num_outputs: N ways.
        balanced: Whether pairs of one class weigh as much in the loss, together, as pairs of two
            classes: the expectation of the paper's sample, half of each kind. If not, every
            pair weighs the same, and with N ways about one in N is of one class.
        transductive: Whether evaluation normalises by the statistics of the episode.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_outputs: int,
        *,
        balanced: bool = True,
        transductive: bool = False,
    ) -> None:
        super().__init__(encoder, num_outputs, transductive)
        check_switch("balanced", balanced)
        self.balanced = balanced
        self.similarity = nn.Linear(math.prod(encoder.feature_shape), 1)  # α and β

    @full_precision
    def compare(self, support: Tensor, support_y: Tensor, num_ways: int, query: Tensor) -> Tensor:
        """Return the log of the mean belief [Q, N] that a query is of a class's examples' kind."""
        logits = self._pair_logits(query.flatten(1)[:, None], support.flatten(1))
        return class_beliefs(logits, support_y, num_ways)

    def features_loss(self, episode: Episode, support: Tensor, query: Tensor) -> EpisodeResult:
        """Return the loss of the pairs, and the scores of the queries."""
        labels = torch.cat([episode.support_y, episode.query_y])
        features = torch.cat([support, query]).flatten(1)
        return self._pairs_loss(features, labels, len(support), episode.num_ways)

    @full_precision
    def _pairs_loss(
        self, features: Tensor, labels: Tensor, num_support: int, num_ways: int
    ) -> EpisodeResult:
        """Compare each pair of `features` [S + Q, F] once; scores are of those with the first S."""
        count = len(labels)
        first, second = torch.triu_indices(count, count, offset=1, device=labels.device)
        logits = self._pair_logits(
            features.index_select(0, first), features.index_select(0, second)
        )
        loss = pair_loss(logits, labels[first] == labels[second], self.balanced)
        table = logits.new_zeros(count, count).index_put((second, first), logits)
        scores = class_beliefs(table[num_support:, :num_support], labels[:num_support], num_ways)
        return EpisodeResult(loss, scores)

    def _pair_logits(self, first: Tensor, second: Tensor) -> Tensor:
        """Return log p / (1 − p) [·] of pairs `first` [·, F] and `second` [·, F], as broadcast."""
        logits: Tensor = self.similarity((first - second).abs()).squeeze(-1)
        return logits


def class_beliefs(logits: Tensor, support_y: Tensor, num_ways: int) -> Tensor:
    """Return [Q, N]: the log of the mean of σ(`logits` [Q, S]) over the examples of each class."""
    counts = one_hot(support_y, num_ways, logits).sum(dim=0)
    return log_sums(logsigmoid(logits), support_y, num_ways) - counts.log()


def pair_loss(logits: Tensor, same: Tensor, balanced: bool) -> Tensor:
    """Return the mean binary cross-entropy (shape []) of pairs of examples.

    Args:
        logits: [·], of the belief that the two of a pair are of one class.
        same: bool [·], whether they are.
        balanced: whether the mean is that of the means of both kinds of pair.
    """
    alike = same.to(logits.dtype)
    losses = binary_cross_entropy_with_logits(logits, alike, reduction="none")
    if not balanced:
        return losses.mean()
    # An episode with a single class has no unlike pairs: their sum is then 0, and so is the mean.
    means = [(losses * kind).sum() / kind.sum().clamp(min=1) for kind in (alike, 1 - alike)]
    return (means[0] + means[1]) / 2
