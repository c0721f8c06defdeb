"""The inner optimizers' updates: a few in-place operations on flat vectors.

The rules are those of `torch.optim` with its defaults. State lives in buffers that are never
replaced, and no number leaves the device.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from algorithms.parameters import ParameterVector


class InnerUpdate(Protocol):
    """One rule, bound to one vector."""

    def apply(self, grad_norm: Tensor, lr: float) -> Tensor:
        """Move the values, given ‖g_i‖ and lr; return the length ‖Δθ‖ of the step (shape [])."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the rule's state."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""


class SGDUpdate:
    """θ ← θ − lr·g."""

    def __init__(self, vector: ParameterVector) -> None:
        self._vector = vector

    def apply(self, grad_norm: Tensor, lr: float) -> Tensor:
        """Take a step; see `InnerUpdate`."""
        self._vector.values.add_(self._vector.grads, alpha=-lr)
        return lr * grad_norm

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing: the rule has no state."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore nothing."""


class MomentumUpdate:
    """v ← momentum·v + g, then θ ← θ − lr·v."""

    def __init__(self, vector: ParameterVector, momentum: float) -> None:
        self._vector = vector
        self._momentum = momentum
        self._velocity = torch.zeros_like(vector.values)

    def apply(self, grad_norm: Tensor, lr: float) -> Tensor:
        """Take a step; see `InnerUpdate`."""
        self._velocity.mul_(self._momentum).add_(self._vector.grads)
        self._vector.values.add_(self._velocity, alpha=-lr)
        length: Tensor = torch.linalg.vector_norm(self._velocity)
        return lr * length

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the velocity."""
        return {"velocity": self._velocity.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._velocity.copy_(state["velocity"])


class AdamUpdate:
    """Adam with bias correction: Kingma and Ba (2015), arXiv:1412.6980, Algorithm 1."""

    BETA2 = 0.999
    EPS = 1e-8

    def __init__(self, vector: ParameterVector, beta1: float = 0.9) -> None:
        self._vector = vector
        self._beta1 = beta1
        self._mean = torch.zeros_like(vector.values)
        self._square = torch.zeros_like(vector.values)
        self._step = torch.zeros_like(vector.values)  # scratch
        # float64, or 1 − 0.999^i would keep few digits while i is small.
        self._betas = vector.values.new_tensor((beta1, self.BETA2), dtype=torch.float64)
        self._powers = torch.ones_like(self._betas)  # beta^i, on the device

    def apply(self, grad_norm: Tensor, lr: float) -> Tensor:
        """Take a step; see `InnerUpdate`."""
        grads = self._vector.grads
        self._mean.lerp_(grads, 1 - self._beta1)
        self._square.mul_(self.BETA2).addcmul_(grads, grads, value=1 - self.BETA2)
        self._powers.mul_(self._betas)
        mean_bias, square_bias = (1 - self._powers).unbind()
        torch.sqrt(self._square, out=self._step)
        self._step.div_(square_bias.sqrt()).add_(self.EPS)
        torch.div(self._mean, self._step, out=self._step)
        self._step.mul_(lr / mean_bias)
        self._vector.values.sub_(self._step)
        length: Tensor = torch.linalg.vector_norm(self._step)
        return length

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of both moments and of the betas' powers."""
        return {
            "mean": self._mean.clone(),
            "square": self._square.clone(),
            "powers": self._powers.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._mean.copy_(state["mean"])
        self._square.copy_(state["square"])
        self._powers.copy_(state["powers"])


class RMSPropUpdate:
    """v ← alpha·v + (1 − alpha)·g², then θ ← θ − lr·g / (√v + eps).

    Hinton's rule as `torch.optim.RMSprop` has it: eps stands outside the root, where it bounds the
    step by lr·|g| / eps whatever v is. A3C (arXiv:1602.01783, section 4) has it inside, so an eps
    of theirs is not one of ours. v starts at zero: first steps are longer, by 1 / √(1 − alpha).
    """

    def __init__(self, vector: ParameterVector, alpha: float = 0.99, eps: float = 1e-8) -> None:
        self._vector = vector
        self._alpha = alpha
        self._eps = eps
        self._square = torch.zeros_like(vector.values)
        self._step = torch.zeros_like(vector.values)  # scratch

    def apply(self, grad_norm: Tensor, lr: float) -> Tensor:
        """Take a step; see `InnerUpdate`."""
        grads = self._vector.grads
        self._square.mul_(self._alpha).addcmul_(grads, grads, value=1 - self._alpha)
        torch.sqrt(self._square, out=self._step)
        self._step.add_(self._eps)
        torch.div(grads, self._step, out=self._step)
        self._vector.values.add_(self._step, alpha=-lr)
        length: Tensor = torch.linalg.vector_norm(self._step)
        return lr * length

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the mean square."""
        return {"square": self._square.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._square.copy_(state["square"])


class ClippedUpdate:
    """Another rule, given gradients scaled down to norm `max_grad_norm` where they are longer.

    As `torch.nn.utils.clip_grad_norm_` does. The vector's gradients are scaled in place; whoever
    must see them as they were (a fold) looks before the update.
    """

    EPS = 1e-6  # torch's, against a norm of zero

    def __init__(self, vector: ParameterVector, update: InnerUpdate, max_grad_norm: float) -> None:
        self._vector = vector
        self._update = update
        self._max_grad_norm = max_grad_norm

    def apply(self, grad_norm: Tensor, lr: float) -> Tensor:
        """Take a step; see `InnerUpdate`."""
        scale = (self._max_grad_norm / (grad_norm + self.EPS)).clamp(max=1.0)
        self._vector.grads.mul_(scale)
        return self._update.apply(grad_norm * scale, lr)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the other rule's state: clipping has none."""
        return self._update.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._update.load_state_dict(state)
