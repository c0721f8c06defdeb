"""Reptile: move the initialisation towards where task training ends.

Nichol, Achiam and Schulman (2018), "On First-Order Meta-Learning Algorithms", arXiv:1803.02999,
Algorithm 1 and section 4 (θ_0 − θ_K taken as a gradient, for any outer optimizer).
"""

from __future__ import annotations

from torch import Tensor


class Reptile:
    """The meta-learner; its outer gradient is θ_0 − θ_K."""

    multi_head = False

    def start(self, params: Tensor) -> DisplacementFold:
        """Begin the fold of one task that starts from `params` (shape [P])."""
        return DisplacementFold(params)


class DisplacementFold:
    """How far the inner loop went, with the sign of a gradient."""

    needs_final_loss = False

    def __init__(self, params: Tensor) -> None:
        self._anchor = params.detach().clone()  # the parameters at the last drain

    def observe(self, loss: Tensor, grad: Tensor, params: Tensor) -> None:
        """See an inner step; only where the path ends matters, so nothing is kept."""

    def drain(self, params: Tensor) -> Tensor:
        """Return the displacement [P] from `params` back to where the last drain was."""
        drained = self._anchor - params
        self._anchor.copy_(params)
        return drained

    def finish(self, params: Tensor, loss: Tensor | None) -> Tensor:
        """Return the rest of θ_0 − θ_K [P]."""
        return self.drain(params)

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the parameters at the last drain."""
        return {"anchor": self._anchor.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._anchor.copy_(state["anchor"])
