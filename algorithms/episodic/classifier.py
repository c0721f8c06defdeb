"""Ordinary classification of all meta-training classes, and few-shot learning on its features.

Chen et al. (2019), "A Closer Look at Few-shot Classification", arXiv:1904.04232, section 3.2:
Baseline and Baseline++. It is also how backbones are trained beforehand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize

from algorithms.episodic.features import class_means, full_precision, vectors
from algorithms.episodic.learner import EpisodeLearner, Predictor, query_loss
from algorithms.episodic.options import check_positive
from algorithms.types import Encoder, Episode, EpisodeResult

HEADS = ("linear", "cosine")
ADAPTATIONS = ("class_means", "logistic_regression")
COSINE_SCALE = 10.0  # of scores that are cosine similarities, and a learned scale's start


class Classifier(EpisodeLearner):
    """An encoder and one output layer for all C meta-training classes.

    Meta-training ignores support sets: an "episode" is a minibatch of queries whose labels are
    those of the meta-training classes, `num_ways` = C. An empty support set (S = 0) stands for
    these classes, so the predictor of one is the output layer.

    At meta-test the output layer is left aside. New classes are told apart by their features f,
    divided by their length: by the cosine similarity to the class means, times 10; or by
    logistic regression on the support set, as Tian et al. (2020), arXiv:2003.11539, section 3.1.
    """

    any_way = True
    joint = True

    def __init__(
        self,
        encoder: Encoder,
        num_outputs: int,
        *,
        head: str = "linear",
        adaptation: str = "class_means",
        penalty: float = 1.0,
        transductive: bool = False,
    ) -> None:
        """Build the output layer.

        Args:
            encoder: Its features are flattened.
            num_outputs: C, the number of meta-training classes.
            head: "linear" (Baseline), or "cosine" (Baseline++): a learned scale times the cosine
                similarity of features and class weights.
            adaptation: "class_means" or "logistic_regression".
            penalty: λ of logistic regression, which minimises Σ_i −log p(y_i) + λ/2 ‖W‖².
            transductive: Whether batch-norm uses the statistics of the queries.

        Raises:
            ValueError: an option is out of range.
        """
        super().__init__(encoder, num_outputs, transductive)
        if head not in HEADS:
            raise ValueError(f"head: expected {' or '.join(HEADS)}, got {head!r}")
        if adaptation not in ADAPTATIONS:
            raise ValueError(f"adaptation: expected {' or '.join(ADAPTATIONS)}, got {adaptation!r}")
        check_positive("penalty", penalty)
        num_features = torch.Size(encoder.feature_shape).numel()
        self.adaptation, self.penalty = adaptation, penalty
        self.head = (nn.Linear if head == "linear" else CosineHead)(num_features, num_outputs)

    def check_task(self, support_x: Tensor, support_y: Tensor) -> None:
        """Raise ValueError, naming the argument, for a support set that cannot be learned from."""
        if len(support_x):
            super().check_task(support_x, support_y)

    def predictor(self, support_x: Tensor, support_y: Tensor) -> Predictor:
        """Learn new classes, any number of them; an empty support set stands for the old ones."""
        if not len(support_x):
            return self._classify
        weight, bias = self._output_layer(self._directions(support_x), support_y)
        return lambda query_x: self._outputs(self._directions(query_x), weight, bias)

    @full_precision
    def _output_layer(self, support: Tensor, support_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights [N, F] and biases [N] for new classes, from features [S, F]."""
        num_ways = int(support_y.max()) + 1
        if self.adaptation == "logistic_regression":
            return fit_logistic_regression(support, support_y, num_ways, self.penalty)
        weight = COSINE_SCALE * normalize(class_means(support, support_y, num_ways), dim=1)
        return weight, weight.new_zeros(num_ways)

    def episode_loss(self, episode: Episode) -> EpisodeResult:
        """Return the loss of the output layer on the queries.

        Raises:
            ValueError: the episode's labels are not those of the C classes.
        """
        if episode.num_ways != self.num_outputs:
            raise ValueError(
                f"expected queries of all {self.num_outputs} meta-training classes, got an episode "
                f"of {episode.num_ways} ways"
            )
        scores = self._classify(episode.query_x)
        return EpisodeResult(query_loss(scores, episode.query_y), scores)

    def _classify(self, inputs: Tensor) -> Tensor:
        return self._score(vectors(self.encode(inputs)))

    @full_precision
    def _score(self, features: Tensor) -> Tensor:
        scores: Tensor = self.head(features)
        return scores

    @full_precision
    def _outputs(self, directions: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear(directions, weight, bias)

    def _directions(self, inputs: Tensor) -> Tensor:
        return normalize(vectors(self.encode(inputs)), dim=1)


class CosineHead(nn.Module):
    """A learned scale times the cosine similarity of features and the weights of each class."""

    def __init__(self, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_outputs, num_features))
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw directions evenly; the scale starts at 10."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)
        nn.init.constant_(self.scale, COSINE_SCALE)

    def forward(self, features: Tensor) -> Tensor:
        """Map `features` [B, F] to scores [B, C]."""
        return self.scale * linear(normalize(features, dim=1), normalize(self.weight, dim=1))


@torch.enable_grad()
def fit_logistic_regression(
    features: Tensor, labels: Tensor, num_ways: int, penalty: float
) -> tuple[Tensor, Tensor]:
    """Return W [N, F] and b [N] that minimise Σ_i −log p(y_i | f_i) + penalty/2 ‖W‖².

    The problem is convex; L-BFGS from zero solves it, in float64. The answer carries no
    gradient of `features` [S, F].
    """
    points = features.detach().double()
    weight = points.new_zeros(num_ways, points.shape[1], requires_grad=True)
    bias = points.new_zeros(num_ways, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=200,
        tolerance_grad=1e-9,
        tolerance_change=1e-16,  # the default stops at gradients of 1e-5
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = cross_entropy(linear(points, weight, bias), labels, reduction="sum")
        loss = loss + 0.5 * penalty * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach().to(features), bias.detach().to(features)
