"""What a policy network puts out, read as a distribution over actions.

A few tensor operations each, without distribution objects: sampling is done at every step of the
environments.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Policy(Protocol):
    """A family of distributions over actions, given by outputs [..., O]."""

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw actions, one for each output, without graph.

        `generator` lives on the output's device; the same state of it gives the same actions.
        """

    def log_prob(self, output: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probability, or log-density, of `actions`: [...]."""

    def entropy(self, output: Tensor) -> Tensor:
        """Return the (differential) entropy of each distribution, in nats: [...]."""


class Categorical:
    """One of A actions, given by logits [..., A]; actions are int64 [...]."""

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw actions; see `Policy`.

        By the Gumbel-max trick: argmax of logits − log E, with E exponential.
        """
        noise = torch.empty_like(output).exponential_(generator=generator).log_()
        return (output.detach() - noise).argmax(dim=-1)

    def log_prob(self, output: Tensor, actions: Tensor) -> Tensor:
        """Return log p(action): [...]."""
        return output.log_softmax(dim=-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self, output: Tensor) -> Tensor:
        """Return −Σ p·log p: [...]."""
        log_probs = output.log_softmax(dim=-1)
        return -(log_probs.exp() * log_probs).sum(dim=-1)


class DiagonalGaussian:
    """D independent normal numbers, given by [..., 2·D]: means, then log standard deviations.

    Actions are [..., D], and not bounded: cut them to the environment's range on their way there,
    but learn from those drawn.
    """

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw actions; see `Policy`."""
        mean, log_std = output.detach().chunk(2, dim=-1)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return torch.addcmul(mean, noise, log_std.exp())

    def log_prob(self, output: Tensor, actions: Tensor) -> Tensor:
        """Return the log-density of `actions`, the sum over D: [...]."""
        mean, log_std = output.chunk(2, dim=-1)
        deviations = (actions - mean) * torch.exp(-log_std)
        terms = 0.5 * deviations.square() + log_std + 0.5 * math.log(2 * math.pi)
        return -terms.sum(dim=-1)

    def entropy(self, output: Tensor) -> Tensor:
        """Return Σ (log std + ½·log 2πe): [...]."""
        log_std = output.chunk(2, dim=-1)[1]
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)
