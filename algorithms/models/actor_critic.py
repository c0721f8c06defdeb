"""An encoder with a policy and a value on top: what actor-critic tasks train."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from algorithms.episodic.features import vectors
from algorithms.reinforcement.policies import Categorical, DiagonalGaussian, Policy
from algorithms.types import Encoder


class ActorCritic(nn.Module):
    """Features of `encoder`, flattened; then a linear policy and a linear value.

    As in a `HeadedNetwork`, `head` is the last submodule and holds all that belongs to a task
    alone, so its parameters are the tail of the flat parameter vector. `policy` reads the outputs
    as a distribution over actions.

    Args:
        encoder: Maps observations to features.
        num_actions: Actions to choose from; or numbers in an action, if `continuous`.
        continuous: Whether actions are real vectors.

    Raises:
        ValueError: `num_actions` is less than one.
    """

    def __init__(self, encoder: Encoder, num_actions: int, continuous: bool = False) -> None:
        super().__init__()
        if num_actions < 1:
            raise ValueError(f"num_actions={num_actions}: expected at least 1")
        self.policy: Policy = DiagonalGaussian() if continuous else Categorical()
        self.encoder = encoder
        self.head = _Head(math.prod(encoder.feature_shape), num_actions, continuous)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return the policy's outputs [B, O] and values [B] at `observations` [B, …].

        O is num_actions, or twice that if continuous. Both have 32 bits a number or more.
        """
        features = vectors(self.encoder(observations))
        # Cheap, and differences of values and log-probabilities need more than bfloat16's 8 bits.
        with torch.autocast(features.device.type, enabled=False):
            outputs: tuple[Tensor, Tensor] = self.head(features)
        return outputs


class _Head(nn.Module):
    """Linear policy and value; log standard deviations of their own if actions are continuous."""

    def __init__(self, num_features: int, num_actions: int, continuous: bool) -> None:
        super().__init__()
        self.policy = nn.Linear(num_features, num_actions)
        self.value = nn.Linear(num_features, 1)
        self.log_std = nn.Parameter(torch.zeros(num_actions)) if continuous else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw orthogonal weights, small ones for the policy: it starts near uniform, or std 1."""
        nn.init.orthogonal_(self.policy.weight, 0.01)
        nn.init.orthogonal_(self.value.weight, 1.0)
        nn.init.zeros_(self.policy.bias)
        nn.init.zeros_(self.value.bias)
        if self.log_std is not None:
            nn.init.zeros_(self.log_std)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        output = self.policy(features)
        if self.log_std is not None:
            output = torch.cat([output, self.log_std.expand_as(output)], dim=-1)
        return output, self.value(features).squeeze(-1)
