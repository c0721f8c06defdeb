"""Siamese networks: learn whether two images show the same class, then ask for each class.

Koch, Zemel and Salakhutdinov (2015), "Siamese Neural Networks for One-shot Image Recognition",
ICML Deep Learning Workshop: similarity in section 3.1, loss in 3.2, N-way test in 4.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from algorithms.episodic.features import full_precision, one_hot, widen
from algorithms.episodic.metric import MetricLearner, check_switch, log_sums
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
        logits = self._pair_logits(query.flatten(1), support.flatten(1))
        counts = one_hot(support_y, num_ways, logits).sum(dim=0)
        return log_sums(logsigmoid(logits), support_y, num_ways) - counts.log()

    def features_loss(self, episode: Episode, support: Tensor, query: Tensor) -> EpisodeResult:
        """Return the loss of the pairs, and the scores of the queries."""
        examples = widen(torch.cat([support, query]).flatten(1))
        with torch.autocast(examples.device.type, enabled=False):
            logits = self._pair_logits(examples, examples)
        labels = torch.cat([episode.support_y, episode.query_y])
        scores = self.compare(support, episode.support_y, episode.num_ways, query)
        return EpisodeResult(pair_loss(logits, labels, self.balanced), scores)

    def _pair_logits(self, first: Tensor, second: Tensor) -> Tensor:
        """Return log p / (1 − p) [A, B] for each pair of `first` [A, F] and `second` [B, F]."""
        differences = (first[:, None] - second).abs()
        logits: Tensor = self.similarity(differences).squeeze(2)
        return logits


def pair_loss(logits: Tensor, labels: Tensor, balanced: bool) -> Tensor:
    """Return the mean binary cross-entropy (shape []) of the pairs i ≠ j.

    Args:
        logits: [B, B], of the belief that examples i and j are of one class.
        labels: int64 [B].
        balanced: whether the mean is that of the means of both kinds of pair.
    """
    same = (labels[:, None] == labels).to(logits.dtype)
    pairs = 1 - torch.eye(len(labels), dtype=logits.dtype, device=logits.device)
    losses = binary_cross_entropy_with_logits(logits, same, reduction="none")
    if not balanced:
        return (losses * pairs).sum() / pairs.sum()
    alike, unlike = same * pairs, 1 - same
    # An episode with a single class has no unlike pairs: their sum is then 0, and so is the mean.
    means = [(losses * kind).sum() / kind.sum().clamp(min=1) for kind in (alike, unlike)]
    return (means[0] + means[1]) / 2
