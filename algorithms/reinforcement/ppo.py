"""PPO with a clipped objective: Schulman et al. (2017), arXiv:1707.06347, eq. 7 and 9.

Values are not clipped, and no bound is put on the divergence: the paper has neither.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from algorithms.reinforcement.losses import check_options, combined_loss, normalized
from algorithms.reinforcement.policies import Policy
from algorithms.reinforcement.returns import Rollout, generalized_advantages


@dataclass(frozen=True, slots=True)
class Samples:
    """The N = T·n steps of a rollout in a row, or a minibatch of them; all constants."""

    observations: Tensor  # [N, …]
    actions: Tensor  # [N] or [N, D]
    behaviour_log_probs: Tensor  # [N] of the actions, under the policy that acted
    advantages: Tensor  # [N]
    returns: Tensor  # [N] what values are fitted to
    valid: Tensor  # bool [N]

    def pick(self, indices: Tensor) -> Samples:
        """Return the minibatch of the samples at `indices` [M]."""
        return Samples(*(getattr(self, field.name)[indices] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class PPO:
    """Proximal policy optimisation with a clipped objective: many updates from each rollout.

    An inner step is one minibatch of one epoch, so a rollout, gathered without graph, is good for
    `steps_per_rollout` of them. Step i of a rollout is then

        minibatch = samples.pick(order[i])
        loss, figures = ppo.loss(policy, *model(minibatch.observations), minibatch)

    with `samples = ppo.prepare(…)` and `order = ppo.minibatches(…)`, both once a rollout.
    """

    clip: float = 0.2  # ε of eq. 7
    num_epochs: int = 4  # times each step of a rollout is learned from
    num_minibatches: int = 4  # of an epoch
    value_coefficient: float = 0.5  # of the mean squared error of values
    entropy_coefficient: float = 0.01
    discount: float = 0.99
    gae_lambda: float = 0.95
    normalize_advantage: bool = True  # within a minibatch

    def __post_init__(self) -> None:
        check_options(self)
        if not self.clip > 0:
            raise ValueError(f"clip: expected a positive number, got {self.clip}")
        for name in ("num_epochs", "num_minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def steps_per_rollout(self) -> int:
        """Inner steps taken on one rollout."""
        return self.num_epochs * self.num_minibatches

    def prepare(self, policy: Policy, rollout: Rollout, observations: Tensor) -> Samples:
        """Return the samples of a rollout; `observations` are o_0 … o_{T−1}: [T, n, …].

        Raises ValueError as `generalized_advantages` does.
        """
        advantages = generalized_advantages(rollout, self.discount, self.gae_lambda)
        columns = (
            observations,
            rollout.actions,
            policy.log_prob(rollout.outputs.detach(), rollout.actions),
            advantages,
            advantages + rollout.values[:-1].detach(),
            rollout.valid,
        )
        return Samples(*(column.flatten(0, 1) for column in columns))

    def minibatches(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Return the samples that each step takes: int64 [steps_per_rollout, M].

        Each epoch is a permutation of all samples, in minibatches of M. The generator, seeded for
        this rollout, is all that the order depends on. ValueError if `num_samples` = T·n cannot be
        divided evenly.
        """
        size, rest = divmod(num_samples, self.num_minibatches)
        if rest or not size:
            raise ValueError(
                f"num_minibatches={self.num_minibatches}: does not divide the {num_samples} "
                "samples of a rollout; unroll length times environments must be a multiple of it"
            )
        epochs = [
            torch.randperm(num_samples, generator=generator, device=generator.device)
            for _ in range(self.num_epochs)
        ]
        return torch.stack(epochs).view(self.steps_per_rollout, size)

    def loss(
        self, policy: Policy, output: Tensor, values: Tensor, minibatch: Samples
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (shape []) and its figures, from what the model makes of `minibatch`.

        With ρ = π(a) / π_behaviour(a), the mean of

            −min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A) + value_coefficient·(R − V)² − entropy_coefficient·H

        Args:
            policy: Reads the outputs.
            output: [M, O], with graph.
            values: [M], with graph.
            minibatch: M samples.
        """
        advantages = minibatch.advantages
        if self.normalize_advantage:
            advantages = normalized(advantages, minibatch.valid)
        log_probs = policy.log_prob(output, minibatch.actions)
        ratios = torch.exp(log_probs - minibatch.behaviour_log_probs)
        clipped = ratios.clamp(1 - self.clip, 1 + self.clip)
        gains = torch.minimum(ratios * advantages, clipped * advantages)
        errors = (minibatch.returns - values).square()
        return combined_loss(self, gains, errors, policy.entropy(output), minibatch.valid)
