"""What every learner of episodes offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from algorithms.episodic.checks import check_examples, check_support, naming_a_single_example
from algorithms.episodic.options import check_count, check_switch
from algorithms.types import Encoder, Episode, EpisodeResult

Predictor = Callable[[Tensor], Tensor]


class EpisodeLearner(nn.Module, ABC):
    """A meta-learner whose outer gradient is that of a differentiable loss of an episode.

    All its parameters that are not frozen are shared across tasks, and trained by `episode_loss`.
    Constructors take the encoder and the number of outputs (N ways, or D targets of a
    regression), then the paper's options as keywords; they raise ValueError or TypeError, with
    the option's name and a colon first, for an option that is out of range. Between them stands
    `regression`, false by default, in a learner of which one can be made for either kind.

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
        kinds: the kinds of episodes that it can learn; with both, a learner is made for one of
            them (`regression`).
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
        check_count("num_outputs", num_outputs)
        check_switch("transductive", transductive)
        self.encoder = encoder
        self.num_outputs = num_outputs
        self.transductive = transductive

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Predictor:
        """Learn the task of a support set and return a function that answers its queries.

        The function maps query_x [Q, …] to scores [Q, N] (their softmax is the belief), or to
        targets [Q, D]. The learner's parameters stay as they are. In evaluation mode so do its
        buffers, and no gradient flows through what was learned from the support set; in training
        mode answers can be differentiated with respect to the learner's parameters, and
        batch-norms' running statistics may follow the inputs.

        Args:
            support_x: [S, …], what the encoder takes.
            support_y: int64 labels [S], each of 0 … N − 1 at least once; or targets [S, D].

        Raises:
            ValueError: names `support_x`, `support_y` or, from the function, `query_x`, and what
                was expected. In training mode values are not looked at: a GPU would wait.
        """
        if not self.training:
            self.check_task(support_x, support_y)
        quiet = nullcontext() if self.training else torch.no_grad()
        with quiet, naming_a_single_example("support_x", support_x):
            predict = self.predictor(support_x, support_y)
        shape = None if self.training else self._input_shape or tuple(support_x.shape[1:])
        return partial(_answer, predict, shape)

    @abstractmethod
    def predictor(self, support_x: Tensor, support_y: Tensor) -> Predictor:
        """Return `adapt`'s function, without its checks: what a learner is written as."""

    def check_task(self, support_x: Tensor, support_y: Tensor) -> None:
        """Raise ValueError, naming the argument, for a support set that cannot be learned from."""
        num_ways = None if self.any_way else self.num_outputs
        check_support(support_x, support_y, num_ways, self._input_shape)

    @property
    def _input_shape(self) -> tuple[int, ...] | None:
        # An encoder of a user's own need not say.
        shape: tuple[int, ...] | None = getattr(self.encoder, "input_shape", None)
        return shape

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

    def feature_predictor(
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


def _answer(predict: Predictor, shape: tuple[int, ...] | None, query_x: Tensor) -> Tensor:
    """Return `predict`'s answers to queries, which are looked at if their `shape` is given."""
    if shape is not None:
        check_examples("query_x", query_x, shape)
    with naming_a_single_example("query_x", query_x):
        return predict(query_x)


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
