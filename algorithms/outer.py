"""Outer optimizers: how the averaged outer gradient moves what is shared across tasks.

All are element by element, so a vector cut into shards, each with its own optimizer, takes
bitwise the same steps as the whole.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

OuterName = Literal["sgd", "nesterov", "adam"]


class OuterOptimizer:
    """A `torch.optim` optimizer on one flat tensor, moved in place."""

    def __init__(self, params: Tensor, optimizer: torch.optim.Optimizer) -> None:
        self.params = params  # [n], a slice of the outer parameters
        self._optimizer = optimizer

    def step(self, grad: Tensor) -> None:
        """Move `params` against the averaged outer gradient `grad` [n]."""
        self.params.grad = grad
        self._optimizer.step()
        self.params.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """Return copies of the optimizer's state by name, for safetensors; empty before a step."""
        state = self._optimizer.state.get(self.params, {})
        return {name: value.detach().clone() for name, value in state.items() if value is not None}

    def load_state_tensors(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned."""
        self._optimizer.state[self.params] = {
            name: tensor.detach().clone() for name, tensor in state.items()
        }


def make_outer_optimizer(
    name: OuterName, lr: float, momentum: float, params: Tensor
) -> OuterOptimizer:
    """Return the outer optimizer `name` for `params` [n]; only Nesterov uses `momentum`.

    Adam has the usual decay rates 0.9 and 0.999 and eps 1e-8. Raises ValueError for another name.
    """
    # foreach=False: the plain code path, the same whatever the tensor's size and device.
    if name == "sgd":
        return OuterOptimizer(params, torch.optim.SGD([params], lr=lr, foreach=False))
    if name == "nesterov":
        nesterov = torch.optim.SGD([params], lr=lr, momentum=momentum, nesterov=True, foreach=False)
        return OuterOptimizer(params, nesterov)
    if name == "adam":
        return OuterOptimizer(params, torch.optim.Adam([params], lr=lr, foreach=False))
    raise ValueError(f"unknown outer optimizer '{name}'; known: sgd, nesterov, adam")
