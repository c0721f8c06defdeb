"""Prototypical networks: a class is the mean of its examples in feature space.

Snell, Swersky and Zemel (2017), "Prototypical Networks for Few-shot Learning",
arXiv:1703.05175: prototypes in eq. 1, softmax over distances in eq. 2, loss in Algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from algorithms.episodic.features import class_means, full_precision
from algorithms.episodic.metric import MetricLearner
from algorithms.episodic.options import check_positive
from algorithms.types import Encoder

DISTANCES = ("euclidean", "cosine")


class PrototypicalNetwork(MetricLearner):
    """Scores are minus the distances of a query to the means of the classes.

    With c_k the mean of class k's features and f a query's: −scale · ‖f − c_k‖² (`euclidean`), or
    −scale · (1 − cos(f, c_k)) (`cosine`). Training episodes may have more ways than those of the
    test, as in section 3 of the paper.

    Args:
        encoder: Maps inputs to features, which are flattened.
        num_outputs: N ways.
        distance: "euclidean" (squared) or "cosine".
        scale: What distances are multiplied by before the softmax; 1 in the paper. Cosines lie
            within ±1, so with 1 the softmax stays flat; 10 is usual.
        transductive: Whether evaluation normalises by the statistics of the episode.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_outputs: int,
        *,
        distance: str = "euclidean",
        scale: float = 1.0,
        transductive: bool = False,
    ) -> None:
        super().__init__(encoder, num_outputs, transductive)
        if distance not in DISTANCES:
            raise ValueError(f"distance: expected one of {', '.join(DISTANCES)}, got {distance!r}")
        check_positive("scale", scale)
        self.distance = distance
        self.scale = scale

    @full_precision
    def compare(self, support: Tensor, support_y: Tensor, num_ways: int, query: Tensor) -> Tensor:
        """Return minus the scaled distances [Q, N] to the prototypes."""
        prototypes = class_means(support.flatten(1), support_y, num_ways)
        queries = query.flatten(1)
        if self.distance == "cosine":
            distances = 1 - normalize(queries) @ normalize(prototypes).T
        else:
            distances = squared_distances(queries, prototypes)
        return -self.scale * distances


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Return ‖p − c‖² [Q, N] for each of `points` [Q, F] and `centres` [N, F].

    By ‖p‖² − 2 p·c + ‖c‖², one product of matrices instead of a tensor [Q, N, F]; around the
    mean of the centres, so that less is lost where all lie close together and far from zero.
    """
    middle = centres.mean(dim=0)
    points, centres = points - middle, centres - middle
    squares = points.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)
    return torch.addmm(squares, points, centres.T, alpha=-2)
