"""What the parts of meta-learning promise each other: tasks, folds, learners, episodes, encoders.

Shape letters: P parameters of the model, B examples of a minibatch, K inner steps; of an
episode N ways, S support examples, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


class Task(Protocol):
    """One learning problem: what an inner loop trains on."""

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the mean loss (shape []) on the minibatch of inner step `step`.

        The minibatch is a function of the task's own seed and of `step` alone, so that a
        restarted task sees the same data.
        """

    def training_metrics(self) -> dict[str, Tensor]:
        """Return detached figures (shape []) of the minibatch that `loss` saw last.

        Classification reports `error`, the share of the minibatch that was misclassified;
        reinforcement learning `env_steps`, `episode_return`, `episode_length` and `entropy`.
        Those on the device stay there: reading them is left to the end of a segment.
        """

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return figures on the task's held-out data, e.g. `accuracy` and `loss`."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on in the middle of the task."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class TrajectoryFold(Protocol):
    """Folds the steps of one task's inner loop into its outer gradient.

    Memory is O(P), whatever K is. The outer gradient is the sum of everything that `drain`
    and `finish` return, so it can be streamed while the task runs.
    """

    needs_final_loss: bool  # whether `finish` wants the loss at the last parameters

    def observe(self, loss: Tensor, grad: Tensor, params: Tensor) -> None:
        """See inner step i before its update: f_i (shape []), g_i and θ_i (shape [P]).

        `grad` and `params` are the live buffers of the inner loop: copy what must stay.
        """

    def drain(self, params: Tensor) -> Tensor:
        """Return a new tensor [P]: the part of the outer gradient gathered since the last call.

        `params` are the parameters after the last update, as in `finish`.
        """

    def finish(self, params: Tensor, loss: Tensor | None) -> Tensor:
        """Return the rest of the outer gradient [P], given θ_K and, if wanted, f_K."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the fold's partial sums, for a checkpoint inside a task."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""


class TrajectoryLearner(Protocol):
    """A meta-learner that watches inner loops from outside."""

    multi_head: bool  # whether each meta-training task keeps an output layer of its own

    def start(self, params: Tensor) -> TrajectoryFold:
        """Begin the fold of one task that starts from `params` (shape [P])."""


class Encoder(nn.Module):
    """A module that maps inputs [B, …] to features [B, *feature_shape].

    Attributes:
        feature_shape: the shape of an example's features.
        input_shape: the shape of an example. Learners refuse others in evaluation mode. None (or
            no such attribute) leaves it open, as for networks that take images of any size:
            then queries need only be shaped as the support set is.
    """

    feature_shape: tuple[int, ...]
    input_shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """A small task with its own test: learn from the support set, answer the queries.

    Classification has int64 labels 0 … N − 1, which mean nothing outside the episode; regression
    has floating-point targets [·, D].
    """

    support_x: Tensor  # [S, …]
    support_y: Tensor  # [S] or [S, D]
    query_x: Tensor  # [Q, …]
    query_y: Tensor  # [Q] or [Q, D]
    num_ways: int  # N; 0 for regression


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """What a learner makes of an episode."""

    loss: Tensor  # shape [], to be differentiated for the outer gradient
    predictions: Tensor  # [Q, N] scores of the classes, or [Q, D]: answers to the queries
