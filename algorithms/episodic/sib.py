"""SIB: a classifier's weights, refined on unlabelled queries along synthetic gradients.

Hu et al. (2020), "Empirical Bayes Transductive Meta-Learning with Synthetic Gradients",
arXiv:2004.12696: Algorithm 1, sections 3.2 and 3.3. Where the paper leaves a choice (normalised
features, the layers of ξ), it is that of the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize

from algorithms.episodic.features import class_means, full_precision, vectors
from algorithms.episodic.learner import EpisodeLearner, Predictor
from algorithms.episodic.options import check_count, check_positive
from algorithms.types import Encoder


class SIB(EpisodeLearner):
    """Synthetic information bottleneck, around an encoder that is trained beforehand and frozen.

    With f̂ a query's features and θ̂_n the weights of class n, both divided by their length,

        logits_qn = s (f̂_q·θ̂_n + b),   s = 10 at first, b = 0,
        θ⁰_n = w ⊙ mean of f̂ over the examples of class n,   w = 1 at first,
        θ ← θ − η ∇_θ ⟨logits(θ), ξ(logits)⟩,   K times over all queries; ξ(logits) is held fixed,

    so that ξ, the synthetic gradient network, stands for the gradient of the unknown loss of the
    queries with respect to their logits. s, b, w and ξ are trained by the queries' loss after the
    K steps; the prior on them is weight decay in the outer optimizer. b cancels in the answers,
    but ξ sees it.

    All queries are answered together. `num_steps=0` is the ablation that answers each by itself
    from θ⁰; it is what `transductive=False` means here (and is not transductive, whatever that
    option says), and has no ξ.

    The encoder is put into evaluation mode for good, its parameters are frozen, and its
    batch-norms keep the statistics that they have: give it trained ones. An encoder that hands
    on vectors computed before, e.g. an identity, will do.
    """

    relabels = False
    wants_pretrained = True

    def __init__(
        self,
        encoder: Encoder,
        num_outputs: int,
        *,
        num_steps: int | None = None,
        lr: float = 1e-3,
        hidden_size: int | None = None,
        transductive: bool = True,
    ) -> None:
        """Freeze `encoder` and build what is trained.

        Args:
            encoder: Its features are flattened.
            num_outputs: N ways.
            num_steps: K; by default 3, or 0 if not transductive.
            lr: η of the steps on θ.
            hidden_size: Units of each of ξ's two hidden layers; by default 8·N.
            transductive: Whether queries are answered together.

        Raises:
            TypeError: an option is no number.
            ValueError: an option is out of range, or `num_steps` needs `transductive`.
        """
        super().__init__(encoder, num_outputs, transductive)
        num_steps = (3 if transductive else 0) if num_steps is None else num_steps
        hidden_size = 8 * num_outputs if hidden_size is None else hidden_size
        check_count("num_steps", num_steps, at_least=0)
        if num_steps and not transductive:
            raise ValueError(f"num_steps: {num_steps} steps on the queries need transductive=True")
        check_positive("lr", lr)
        check_count("hidden_size", hidden_size)
        self.num_steps, self.lr = num_steps, lr
        self.transductive = num_steps > 0
        _freeze(encoder)
        self.feature_scale = nn.Parameter(torch.ones(torch.Size(encoder.feature_shape).numel()))
        self.scale = nn.Parameter(torch.tensor(10.0))
        # Without steps the bias has no part in the answers, and nothing to learn.
        self.bias = nn.Parameter(torch.tensor(0.0), requires_grad=num_steps > 0)
        if num_steps:
            self.synthetic_gradient = SyntheticGradient(num_outputs, hidden_size)

    def reset_parameters(self) -> None:
        """Start as plain cosine similarity to the class means."""
        nn.init.ones_(self.feature_scale)
        nn.init.constant_(self.scale, 10.0)
        nn.init.zeros_(self.bias)

    def train(self, mode: bool = True) -> SIB:
        """Set the mode of all but the encoder, which stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def predictor(self, support_x: Tensor, support_y: Tensor) -> Predictor:
        """Take θ⁰ from the support set; the predictor refines it on its queries."""
        support = self._directions(support_x)
        return lambda query_x: self._answer(support, support_y, self._directions(query_x))

    @full_precision
    def _answer(self, support: Tensor, support_y: Tensor, queries: Tensor) -> Tensor:
        start = self.feature_scale * class_means(support, support_y, self.num_outputs)
        return self.logits(self.refine(start, queries), queries)

    def logits(self, theta: Tensor, queries: Tensor) -> Tensor:
        """Return the logits [Q, N] of `queries` [Q, F] of length 1, under `theta` [N, F]."""
        return self.scale * (queries @ normalize(theta, dim=1).T + self.bias)

    def refine(self, theta: Tensor, queries: Tensor) -> Tensor:
        """Return θ^K [N, F] from θ⁰ and the queries' features [Q, F] of length 1.

        With g = ξ(logits), the gradient of ⟨logits, g⟩ with respect to θ_n is

            s / ‖θ_n‖ · Σ_q g_qn (f̂_q − (f̂_q·θ̂_n) θ̂_n).
        """
        for _ in range(self.num_steps):
            length = theta.norm(dim=1, keepdim=True).clamp_min(1e-12)
            direction = theta / length
            cosines = queries @ direction.T
            gradient = self.synthetic_gradient(self.scale * (cosines + self.bias))
            along = (gradient * cosines).sum(dim=0)[:, None] * direction
            theta = theta - self.lr * self.scale / length * (gradient.T @ queries - along)
        return theta

    def _directions(self, inputs: Tensor) -> Tensor:
        # Not `encode`: the encoder is frozen with its own statistics, transductive or not.
        return normalize(vectors(self.encoder(inputs)), dim=1)


class SyntheticGradient(nn.Module):
    """ξ: a query's logits [Q, N] to a stand-in for the gradient of its loss on them [Q, N].

    Two hidden layers, each linear, ReLU and a normalisation over the queries of the episode, in
    evaluation too, as in the authors' code.
    """

    def __init__(self, num_outputs: int, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_outputs, hidden_size), nn.ReLU(), QueryNorm(hidden_size),
            nn.Linear(hidden_size, hidden_size), nn.ReLU(), QueryNorm(hidden_size),
            nn.Linear(hidden_size, num_outputs),
        )  # fmt: skip

    def forward(self, logits: Tensor) -> Tensor:
        """Map `logits` [Q, N] to ξ(logits) [Q, N]."""
        gradient: Tensor = self.layers(logits)
        return gradient


class QueryNorm(nn.Module):
    """Batch-norm that keeps no statistics, and takes a batch of one: its deviations are zero."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def reset_parameters(self) -> None:
        """Start without effect beyond the normalisation."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Normalise each column of `values` [Q, features] over Q."""
        normal = layer_norm(values.T, (len(values),)).T
        return normal * self.weight + self.bias


def _freeze(encoder: Encoder) -> None:
    encoder.requires_grad_(False)
    encoder.eval()
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            # Nobody shall estimate them anew: see `algorithms.batch_norm`.
            module.track_running_stats = False
