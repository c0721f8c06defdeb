"""What every learner of episodes offers, and what it checks of a user's support set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from algorithms.types import Encoder, Episode, EpisodeResult

Predictor = Callable[[Tensor], Tensor]


class EpisodeLearner(nn.Module, ABC):
    """A meta-learner whose outer gradient is that of a differentiable loss of an episode.

    All its parameters that are not frozen are shared across tasks, and trained by `episode_loss`.
    Constructors take the encoder and the number of outputs (N ways, or D targets of a
    regression), then the paper's options as keywords; they raise ValueError or TypeError, with
    the option's name and a colon first, for an option that is out of range.

    Attributes:
        encoder: maps inputs to features.
        num_outputs: N or D, in meta-training. A learner with `any_way` takes episodes of another
            number of ways too.
        transductive: whether queries are answered together: batch-norm then uses the statistics
            of all the queries, or they refine the answer in another way. If false, the answer to
            a query depends on the support set and on this query alone.
        any_way: whether the number of ways may change from episode to episode.
        ordered: whether the order of the support set changes the answers.
        relabels: whether exchanging two classes' labels exchanges their scores, and no more.
        kinds: the kinds of episodes that it can learn.
        uses_running_statistics: whether batch-norm's running statistics enter the answers of one
            that is not transductive.
        wants_pretrained: whether its encoder was trained before and stays as it is.
        joint: whether meta-training draws minibatches of all meta-training classes at once, with
            labels that last, in place of episodes; `num_outputs` is then how many there are.
    """

    any_way: ClassVar[bool] = False
    ordered: bool = False
    relabels: ClassVar[bool] = True
    kinds: ClassVar[frozenset[str]] = frozenset({"classification"})
    uses_running_statistics: ClassVar[bool] = True
    wants_pretrained: ClassVar[bool] = False
    joint: ClassVar[bool] = False

    def __init__(self, encoder: Encoder, num_outputs: int, transductive: bool) -> None:
        super().__init__()
        if not isinstance(transductive, bool):
            raise TypeError(f"transductive: expected true or false, got {transductive!r}")
        self.encoder = encoder
        self.num_outputs = num_outputs
        self.transductive = transductive

    @abstractmethod
    def adapt(self, support_x: Tensor, support_y: Tensor) -> Predictor:
        """Learn the task of a support set and return a function that answers its queries.

        The function maps query_x [Q, …] to scores [Q, N] (their softmax is the belief), or to
        targets [Q, D], and leaves the learner's parameters and buffers as they are. In training
        mode its answers can be differentiated with respect to the learner's parameters.

        Args:
            support_x: [S, …], what the encoder takes.
            support_y: int64 labels [S], each of 0 … N − 1 at least once; or targets [S, D].
        """

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the encoder's features [B, *feature_shape] of `inputs` [B, …].

        Batch-norm uses the statistics of `inputs` in training mode, and in evaluation mode if the
        learner is transductive; evaluation leaves the running statistics as they are.
        """
        together = self.transductive and not self.training
        with batch_statistics(self.encoder) if together else nullcontext():
            features: Tensor = self.encoder(inputs)
        return features

    def encode_together(self, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of support set and queries, encoded as one batch (see `encode`)."""
        features = self.encode(torch.cat([support_x, query_x]))
        return features[: len(support_x)], features[len(support_x) :]

    def predictor(
        self, support_x: Tensor, support_y: Tensor, condition: Callable[[Tensor, Tensor], Predictor]
    ) -> Predictor:
        """Return a predictor that encodes, given what to do with features.

        Support set and queries are encoded as one batch in training mode and if transductive, so
        that batch-norm treats them alike; else the support set is encoded and learned from once.

        Args:
            support_x: [S, …], what the encoder takes.
            support_y: [S] or [S, D].
            condition: from the support set's features and `support_y` to a function from
                queries' features to scores or targets.
        """
        if self.training or self.transductive:

            def answer_together(query_x: Tensor) -> Tensor:
                support, queries = self.encode_together(support_x, query_x)
                return condition(support, support_y)(queries)

            return answer_together
        answer = condition(self.encode(support_x), support_y)
        return lambda query_x: answer(self.encode(query_x))

    def episode_loss(self, episode: Episode) -> EpisodeResult:
        """Return the loss to meta-train on, by default that of the answers to the queries."""
        predictions = self.adapt(episode.support_x, episode.support_y)(episode.query_x)
        return EpisodeResult(query_loss(predictions, episode.query_y), predictions)


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Within the block, batch-norms of `module` normalise by their batch; running ones stay."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    modes = [(norm.training, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, (training, tracks) in zip(norms, modes, strict=True):
            norm.training, norm.track_running_stats = training, tracks


def query_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss (shape []) of `predictions` [Q, N or D].

    Cross-entropy for labels [Q] of an integer type, mean squared error for targets [Q, D].
    """
    if targets.is_floating_point():
        return mse_loss(predictions, targets)
    return cross_entropy(predictions, targets)


def check_support(support_x: Tensor, support_y: Tensor, num_ways: int | None = None) -> int:
    """Return N, the number of classes of a support set that comes from outside.

    Raises:
        ValueError: names `support_x` or `support_y`, and what was expected of it.
    """
    _check_examples(support_x)
    if support_y.shape != (len(support_x),):
        raise ValueError(
            f"support_y: expected {len(support_x)} labels, one for each example, got shape "
            f"{_shape(support_y)}"
        )
    if support_y.is_floating_point() or support_y.is_complex() or support_y.dtype is torch.bool:
        raise ValueError(f"support_y: expected integer labels, got {support_y.dtype}")
    lowest, highest = int(support_y.min()), int(support_y.max())
    if lowest < 0:
        raise ValueError(f"support_y: labels count from 0, got {lowest}")
    if num_ways is not None and highest >= num_ways:
        raise ValueError(f"support_y: label {highest}, but there are {num_ways} ways")
    expected = highest + 1 if num_ways is None else num_ways
    counts = torch.bincount(support_y.long(), minlength=expected).tolist()
    absent = [label for label, count in enumerate(counts) if not count]
    if absent:
        raise ValueError(
            f"support_y: no example of class {', '.join(map(str, absent[:10]))}; each of the "
            f"{expected} classes needs one at least"
        )
    return expected


def check_targets(support_x: Tensor, support_y: Tensor, num_targets: int) -> None:
    """Refuse a regression's support set from outside that cannot be learned from.

    Raises:
        ValueError: names `support_x` or `support_y`, and what was expected of it.
    """
    _check_examples(support_x)
    expected = (len(support_x), num_targets)
    if support_y.shape != expected:
        raise ValueError(
            f"support_y: expected targets {list(expected)}, got shape {_shape(support_y)}"
        )
    if not support_y.is_floating_point():
        raise ValueError(f"support_y: expected floating-point targets, got {support_y.dtype}")
    if not torch.isfinite(support_y).all():
        raise ValueError("support_y: has values that are not finite (NaN or infinite)")


def _check_examples(support_x: Tensor) -> None:
    if support_x.ndim < 2 or len(support_x) == 0:
        raise ValueError(f"support_x: expected examples [S, …], got shape {_shape(support_x)}")
    if not torch.isfinite(support_x).all():
        raise ValueError("support_x: has values that are not finite (NaN or infinite)")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
