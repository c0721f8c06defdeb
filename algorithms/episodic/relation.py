"""Relation networks: how alike a query and a class are is itself learned.

Sung et al. (2018), "Learning to Compare: Relation Network for Few-Shot Learning",
arXiv:1711.06025: relation score in eq. 1, loss in eq. 2, network in section 3.4 and figure 2.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import conv2d, logsigmoid, mse_loss

from algorithms.episodic.features import one_hot, widen
from algorithms.episodic.metric import MetricLearner
from algorithms.episodic.options import check_count
from algorithms.models.conv import ConvBlock
from algorithms.types import Encoder


class RelationNetwork(MetricLearner):
    """Relation scores r = σ(g([Σ f(x_i), f(x̂)])), trained towards 1 for the query's class, else 0.

    Feature maps of a class's examples are summed and put before those of the query, channel by
    channel. g is two blocks of convolution 3×3, batch-norm, ReLU and max-pool, then two fully
    connected layers. Loss: mean of (r − [y = k])² over queries and classes. The scores that
    come out are log r: their softmax shares the belief out in proportion to r.

    Args:
        encoder: Maps inputs to feature maps [C, H, W]. The paper's does not pool in its last two
            blocks: `ConvEncoder(num_pooled_blocks=2)`. Maps too small to be halved are not
            pooled by g either.
        num_outputs: N ways.
        num_filters: Filters of g's convolutions.
        hidden_size: Units of g's first fully connected layer.
        transductive: Whether evaluation normalises by the statistics of the episode.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_outputs: int,
        *,
        num_filters: int = 64,
        hidden_size: int = 8,
        transductive: bool = False,
    ) -> None:
        super().__init__(encoder, num_outputs, transductive)
        check_count("num_filters", num_filters)
        check_count("hidden_size", hidden_size)
        if len(encoder.feature_shape) != 3:
            raise ValueError(
                "encoder: relation networks compare feature maps [C, H, W], got features of shape "
                f"{list(encoder.feature_shape)}"
            )
        channels, height, width = encoder.feature_shape
        blocks = []
        for in_channels in (2 * channels, num_filters):
            pooled = min(height, width) > 1
            blocks.append(
                ConvBlock(in_channels, num_filters, True, pool_first=False, pooled=pooled)
            )
            if pooled:
                height, width = height // 2, width // 2
        self.pair_block, self.second_block = blocks
        self.judge = nn.Sequential(
            nn.Flatten(),
            nn.Linear(num_filters * height * width, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, 1),
        )

    def compare(self, support: Tensor, support_y: Tensor, num_ways: int, query: Tensor) -> Tensor:
        """Return the logs of the relation scores [Q, N]."""
        pairs = self._convolve_pairs(class_sums(support, support_y, num_ways), query)
        maps = self.second_block(self.pair_block.finish(pairs))
        return logsigmoid(widen(self.judge(maps))).view(len(query), num_ways)

    def scores_loss(self, scores: Tensor, query_y: Tensor) -> Tensor:
        """Return the mean squared error of the relation scores (shape [])."""
        return mse_loss(scores.exp(), one_hot(query_y, scores.shape[1], scores))

    def _convolve_pairs(self, classes: Tensor, query: Tensor) -> Tensor:
        """Convolve each pair of class [N, C, H, W] and query [Q, C, H, W]: [Q · N, D, H, W].

        A convolution of stacked channels is the sum of two of its halves, and each of these is
        needed once for a class or a query, not once for a pair.
        """
        convolution = self.pair_block.conv
        of_class, of_query = convolution.weight.chunk(2, dim=1)
        class_part = conv2d(classes, of_class, convolution.bias, padding=1)
        query_part = conv2d(query, of_query, padding=1)
        return (query_part[:, None] + class_part).flatten(0, 1)


def class_sums(features: Tensor, labels: Tensor, num_ways: int) -> Tensor:
    """Return the sums of `features` [S, …] over each class: [N, …]."""
    members = one_hot(labels, num_ways, features).T
    return (members @ features.flatten(1)).view(num_ways, *features.shape[1:])
