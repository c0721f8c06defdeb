"""What losses of actor-critic learners share: means over valid steps, and their weighted sum."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from algorithms.reinforcement.returns import check_fraction


class Coefficients(Protocol):
    """The options that every actor-critic learner has."""

    @property
    def value_coefficient(self) -> float:
        """Weight of the mean squared error of values."""

    @property
    def entropy_coefficient(self) -> float:
        """Weight of the mean entropy."""

    @property
    def discount(self) -> float:
        """What a reward one step later is worth."""

    @property
    def gae_lambda(self) -> float:
        """Decay of the advantages' sum of temporal differences."""


def combined_loss(
    options: Coefficients, gains: Tensor, errors: Tensor, entropy: Tensor, valid: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss (shape []) and its figures, from terms of each step.

    Of the figures (shape [], detached, on the device) `policy_loss` is without the entropy bonus
    and `value_loss` is the mean squared error, before its coefficient.

    Args:
        options: The coefficients.
        gains: What the policy is to raise.
        errors: Squared errors of the values.
        entropy: Of the policy.
        valid: Which steps count; all four have one shape.
    """
    means = _mean(torch.stack([-gains, errors, entropy]), valid)
    policy_loss, value_loss, mean_entropy = means.unbind()
    loss = (
        policy_loss
        + options.value_coefficient * value_loss
        - options.entropy_coefficient * mean_entropy
    )
    names = ("policy_loss", "value_loss", "entropy")
    return loss, dict(zip(names, means.detach().unbind(), strict=True))


def _mean(terms: Tensor, valid: Tensor) -> Tensor:
    """Return means [...] over the valid ones of `terms` [..., *shape of valid]; 0 of none."""
    dims = tuple(range(-valid.dim(), 0))
    return torch.where(valid, terms, 0.0).sum(dim=dims) / valid.sum().clamp(min=1)


def normalized(advantages: Tensor, valid: Tensor) -> Tensor:
    """Return the advantages with mean 0 and standard deviation 1 over the valid ones."""
    centred = advantages - _mean(advantages, valid)
    return centred / (_mean(centred.square(), valid).sqrt() + 1e-8)


def check_options(options: Coefficients) -> None:
    """Raise ValueError, naming the option, unless each is within its bounds."""
    check_fraction("discount", options.discount)
    check_fraction("gae_lambda", options.gae_lambda)
    for name in ("value_coefficient", "entropy_coefficient"):
        if not getattr(options, name) >= 0:
            raise ValueError(f"{name}: expected 0 or more, got {getattr(options, name)}")
