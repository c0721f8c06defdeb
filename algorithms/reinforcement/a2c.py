"""A2C: A3C with all environments in step.

Mnih et al. (2016), arXiv:1602.01783, section 4 and Algorithm S3.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from algorithms.reinforcement.losses import check_options, combined_loss, normalized
from algorithms.reinforcement.policies import Policy
from algorithms.reinforcement.returns import Rollout, generalized_advantages


@dataclass(frozen=True, slots=True)
class A2C:
    """Advantage actor-critic: one update from each rollout.

    The graph is that of the passes with which the agent acted, so no observation is passed
    through the network twice; only the value after the last step takes a pass without graph.
    """

    value_coefficient: float = 0.5  # of the mean squared error of values
    entropy_coefficient: float = 0.01
    discount: float = 0.99
    gae_lambda: float = 1.0  # 1: advantages over n-step returns, as in A3C
    normalize_advantage: bool = False

    def __post_init__(self) -> None:
        check_options(self)

    def loss(self, policy: Policy, rollout: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (shape []) and its figures.

        `outputs` and the first T of `values` carry the graph of the acting passes:

            mean of −log π(a_t)·A_t + value_coefficient·(R_t − V(o_t))² − entropy_coefficient·H_t

        with constants A_t and R_t = A_t + V(o_t). Raises ValueError as `generalized_advantages`.
        """
        values = rollout.values[:-1]
        advantages = generalized_advantages(rollout, self.discount, self.gae_lambda)
        returns = advantages + values.detach()
        if self.normalize_advantage:
            advantages = normalized(advantages, rollout.valid)
        gains = policy.log_prob(rollout.outputs, rollout.actions) * advantages
        entropy = policy.entropy(rollout.outputs)
        return combined_loss(self, gains, (returns - values).square(), entropy, rollout.valid)
