"""An episode as a task for an inner loop: train on the support set, be judged on the queries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from algorithms.batch_norm import statistics_from
from algorithms.episodic.learner import query_loss
from algorithms.types import Episode
from pipeline.tasks.minibatches import MinibatchSchedule


class EpisodeTask:
    """Implements `algorithms.types.Task` for the meta-learners that watch inner loops.

    Minibatches are drawn from the support set by `seed` and the step. Queries are answered with
    the batch-norm statistics of the support set, or, `transductive`, of the queries themselves,
    as Nichol et al. (2018), arXiv:1803.02999, section 6.1, tell the two apart.
    """

    def __init__(self, episode: Episode, *, seed: int, batch_size: int, transductive: bool) -> None:
        self._episode = episode
        size = len(episode.support_x)
        self._schedule = MinibatchSchedule(
            seed, size, min(batch_size, size), augment=False, device=episode.support_x.device
        )
        self._transductive = transductive
        self._error: Tensor | None = None

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the mean loss (shape []) on the minibatch of `step`."""
        indices, _ = self._schedule(step)
        targets = self._episode.support_y.index_select(0, indices)
        predictions = model(self._episode.support_x.index_select(0, indices)).float()
        if self._episode.num_ways:
            self._error = (predictions.detach().argmax(dim=1) != targets).float().mean()
        return query_loss(predictions, targets)

    def training_metrics(self) -> dict[str, Tensor]:
        """Return `error`, the share of the last minibatch that was misclassified, if it has one."""
        return {} if self._error is None else {"error": self._error}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return loss, and for classification accuracy and error, on the queries."""
        episode = self._episode
        predictions = self.answer(model, episode.query_x)
        metrics = {"loss": float(query_loss(predictions, episode.query_y))}
        if episode.num_ways:
            wrong = predictions.argmax(dim=1) != episode.query_y
            error = float(wrong.double().mean())
            metrics |= {"accuracy": 1.0 - error, "error": error}
        return metrics

    def answer(self, model: nn.Module, query_x: Tensor) -> Tensor:
        """Return the outputs [Q, N or D] of the adapted `model` for queries [Q, …]."""
        was_training = model.training
        batch = query_x if self._transductive else self._episode.support_x
        try:
            with statistics_from(model, [batch]), torch.no_grad():
                outputs: Tensor = model.eval()(query_x).float()
        finally:
            model.train(was_training)
        return outputs

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the step alone says where the task stands."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
