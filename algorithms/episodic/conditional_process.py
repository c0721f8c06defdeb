"""Conditional neural processes: a support set becomes one vector, which a decoder is given.

Garnelo et al. (2018), "Conditional Neural Processes", arXiv:1807.01613: model in section 2.2
(eqs. 1 to 4), regression in 4.1, Omniglot in 4.3. Spread and widths are those of the authors'
notebook.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from algorithms.episodic.checks import check_targets
from algorithms.episodic.features import class_means, full_precision, vectors
from algorithms.episodic.learner import EpisodeLearner, Predictor
from algorithms.episodic.options import check_count
from algorithms.types import Encoder, Episode, EpisodeResult


class ConditionalProcess(EpisodeLearner):
    """What regression and classification share; `encoder` maps inputs to features e(x).

    Points of the support set are mapped by h and averaged into a representation r (eqs. 1, 2);
    g(e(x), r) gives the law of the target at x (eq. 3). The loss is the mean negative
    log-likelihood of every target of the episode, those of the support set included (eq. 4).
    Both h and g are perceptrons of `representation_size` units a layer.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_outputs: int,
        *,
        representation_size: int = 128,
        transductive: bool = False,
    ) -> None:
        """Build h and g.

        Args:
            encoder: Its features are flattened.
            num_outputs: N ways, or D targets.
            representation_size: Numbers in the representation of a point.
            transductive: Whether batch-norm uses the statistics of the queries.

        Raises:
            ValueError: an option is out of range.
        """
        super().__init__(encoder, num_outputs, transductive)
        check_count("representation_size", representation_size)
        num_features = torch.Size(encoder.feature_shape).numel()
        width, (from_targets, num_representations, law) = representation_size, self._sizes()
        self.point = _perceptron(num_features + from_targets, width, width, width)
        self.decoder = _perceptron(num_features + num_representations * width, width, width, law)

    def predictor(self, support_x: Tensor, support_y: Tensor) -> Predictor:
        """Keep the representation of a support set; queries are answered from it alone."""
        return self.feature_predictor(support_x, support_y, self._condition)

    def episode_loss(self, episode: Episode) -> EpisodeResult:
        """Return the mean negative log-likelihood of all targets of the episode."""
        support, queries = self.encode_together(episode.support_x, episode.query_x)
        representation = self._represent(vectors(support), episode.support_y)
        law = self._decode(vectors(torch.cat([support, queries])), representation)
        targets = torch.cat([episode.support_y, episode.query_y])
        return EpisodeResult(self._surprise(law, targets), self._answer(law[len(support) :]))

    def _condition(self, support: Tensor, support_y: Tensor) -> Predictor:
        representation = self._represent(vectors(support), support_y)
        return lambda queries: self._answer(self._decode(vectors(queries), representation))

    @full_precision
    def _decode(self, features: Tensor, representation: Tensor) -> Tensor:
        """Return g(e(x), r) for each of `features` [B, F]."""
        given = representation.expand(len(features), -1)
        law: Tensor = self.decoder(torch.cat([features, given], dim=1))
        return law

    @abstractmethod
    def _sizes(self) -> tuple[int, int, int]:
        """Return how many numbers h sees of a target, how many means r holds, and g's outputs."""

    @abstractmethod
    def _represent(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return r, one vector, of a support set's features [S, F] and targets."""

    @abstractmethod
    def _surprise(self, law: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over points of −log p(target) (shape [])."""

    @abstractmethod
    def _answer(self, law: Tensor) -> Tensor:
        """Return predictions [Q, N or D]."""


class ConditionalRegressor(ConditionalProcess):
    """A law of D independent Gaussians: g gives μ and ω, and σ = 0.1 + 0.9 softplus(ω).

    h sees a point's features and target. Predictions are the means μ.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"regression"})

    def _sizes(self) -> tuple[int, int, int]:
        return self.num_outputs, 1, 2 * self.num_outputs

    def check_task(self, support_x: Tensor, support_y: Tensor) -> None:
        """Raise ValueError, naming the argument, for a support set that cannot be learned from."""
        check_targets(support_x, support_y, self.num_outputs, self._input_shape)

    @full_precision
    def _represent(self, features: Tensor, targets: Tensor) -> Tensor:
        points: Tensor = self.point(torch.cat([features, targets], dim=1))
        return points.mean(dim=0)

    @full_precision
    def _surprise(self, law: Tensor, targets: Tensor) -> Tensor:
        mean, spread = law.chunk(2, dim=1)
        deviation = 0.1 + 0.9 * softplus(spread)
        errors = ((targets - mean) / deviation).square()
        return (0.5 * (errors + math.log(2 * math.pi)) + deviation.log()).sum(dim=1).mean()

    def _answer(self, law: Tensor) -> Tensor:
        return law[:, : self.num_outputs]


class ConditionalClassifier(ConditionalProcess):
    """Points are averaged class by class, and r is the N class means in the order of labels.

    h sees a point's features: its label says only which mean it enters. g gives the scores.
    """

    relabels = False

    def _sizes(self) -> tuple[int, int, int]:
        return 0, self.num_outputs, self.num_outputs

    @full_precision
    def _represent(self, features: Tensor, targets: Tensor) -> Tensor:
        return class_means(self.point(features), targets, self.num_outputs).flatten()

    def _surprise(self, law: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(law, targets)

    def _answer(self, law: Tensor) -> Tensor:
        return law


def _perceptron(*sizes: int) -> nn.Sequential:
    """Return linear layers of these sizes with a ReLU between two."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
