"""Returns and advantages of a rollout, with episodes that end and begin inside it.

Mnih et al. (2016), A3C, arXiv:1602.01783, section 4 and Algorithm S3; Schulman et al. (2016), GAE,
arXiv:1506.02438, eq. 11 and 16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rollout:
    """T steps of n environments that start themselves anew, as gymnasium's NEXT_STEP does.

    The observation after an episode's final step is its own last one. The step after that is not
    `valid`: its action is ignored, its reward nothing, it only leads to the first observation of
    the next episode. So `values[t + 1]` bootstraps a truncated step rightly.
    """

    outputs: Tensor  # [T, n, O] what the policy put out at o_0 … o_{T−1}: see policies.py
    values: Tensor  # [T + 1, n] V(o_0) … V(o_T)
    actions: Tensor  # [T, n], or [T, n, D] where they are continuous
    rewards: Tensor  # [T, n] of `values`' type, as learned from: clipped, if so
    terminated: Tensor  # bool [T, n]: the episode ended in a state that is worth nothing more
    truncated: Tensor  # bool [T, n]: it was cut off, and would have gone on
    valid: Tensor  # bool [T, n]: false for the step that only starts an episode


def generalized_advantages(rollout: Rollout, discount: float, decay: float) -> Tensor:
    """Return the advantages [T, n], zero for steps that are not valid; constants, without graph.

    With δ_t = r_t + discount·V(o_{t+1}) − V(o_t), where V counts nothing after termination:

        A_t = δ_t + discount·decay·A_{t+1},   A_T = 0,   and no A_{t+1} after an episode's end

    `decay` is the λ of the paper: 0 gives the one-step temporal difference, 1 the n-step return
    less the value. Computed in the type of `values`.

    Raises:
        ValueError: Shapes do not fit, or `discount` or `decay` is not within 0 and 1.
    """
    check_fraction("discount", discount)
    check_fraction("decay", decay)
    _check_shapes(rollout)
    values, ended = rollout.values.detach(), rollout.terminated | rollout.truncated
    # where, not a product: a value that is not finite must not come through a mask of zeros.
    following = torch.where(rollout.terminated, 0.0, values[1:])
    deltas = rollout.rewards + discount * following - values[:-1]
    deltas = torch.where(rollout.valid, deltas, 0.0)
    carried = discount * decay * (rollout.valid & ~ended).to(values.dtype)
    advantages = torch.empty_like(deltas)
    advantage = torch.zeros_like(deltas[0])
    for t in range(len(deltas) - 1, -1, -1):
        advantage = torch.addcmul(deltas[t], carried[t], advantage, out=advantages[t])
    return advantages


def n_step_returns(rollout: Rollout, discount: float) -> Tensor:
    """Return the returns [T, n] up to the end of the rollout or episode; constants, without graph.

    R_t = r_t + discount·R_{t+1}, where what follows the last step is V of the observation after it,
    or nothing after termination. A step that is not valid gets V(o_t), so that its error is zero.
    Raises ValueError as `generalized_advantages` does.
    """
    return generalized_advantages(rollout, discount, decay=1.0) + rollout.values.detach()[:-1]


def check_fraction(name: str, number: float) -> None:
    """Raise ValueError unless `number` is within 0 and 1."""
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {number}")


def _check_shapes(rollout: Rollout) -> None:
    shape = rollout.rewards.shape
    if len(shape) != 2 or not shape[0]:
        raise ValueError(f"rewards: expected shape [T, n] with T at least 1, got {list(shape)}")
    expected = {"values": (shape[0] + 1, shape[1])} | dict.fromkeys(
        ("terminated", "truncated", "valid"), tuple(shape)
    )
    for name, wanted in expected.items():
        found = tuple(getattr(rollout, name).shape)
        if found != wanted:
            raise ValueError(f"{name}: expected shape {list(wanted)}, got {list(found)}")
