"""First-order MAML: the gradient that the adapted parameters still see.

Finn, Abbeel and Levine (2017), arXiv:1703.03400, section 5.2; Nichol, Achiam and Schulman
(2018), arXiv:1803.02999, section 5: g_FOMAML is the gradient of the last minibatch.
"""

from __future__ import annotations

import torch
from torch import Tensor


class FOMAML:
    """The meta-learner; the last minibatch of the inner loop plays the query set.

    With K inner steps the task adapts for K − 1 of them, and the outer gradient is
    g_{K-1} = ∇f_{K-1}(θ_{K-1}). The last update, to θ_K, does not enter.
    """

    multi_head = False

    def start(self, params: Tensor) -> LastGradientFold:
        """Begin the fold of one task that starts from `params` (shape [P])."""
        return LastGradientFold(params)


class LastGradientFold:
    """Keeps the newest gradient: which one is the last is known only at the end."""

    needs_final_loss = False

    def __init__(self, params: Tensor) -> None:
        self._grad = torch.zeros_like(params)

    def observe(self, loss: Tensor, grad: Tensor, params: Tensor) -> None:
        """See an inner step; its gradient takes the place of the one before."""
        self._grad.copy_(grad)

    def drain(self, params: Tensor) -> Tensor:
        """Return zeros [P]: no part is known before the task ends."""
        return torch.zeros_like(self._grad)

    def finish(self, params: Tensor, loss: Tensor | None) -> Tensor:
        """Return the last gradient [P]; zeros if there was no step."""
        return self._grad.clone()

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the newest gradient."""
        return {"grad": self._grad.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._grad.copy_(state["grad"])
