"""Outer optimizers: how the averaged outer gradient moves what is shared across tasks.

All are element by element, so a vector cut into shards, each with its own optimizer, takes
bitwise the same steps as the whole.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from algorithms.delayed_nesterov import DelayedNesterov

OuterName = Literal["sgd", "nesterov", "adam", "delayed-nesterov"]
ScheduleName = Literal["constant", "linear", "cosine", "halving"]


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

    def set_lr(self, lr: float) -> None:
        """Take the steps from now on with learning rate `lr`."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

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
    name: OuterName,
    lr: float,
    momentum: float,
    params: Tensor,
    weight_decay: float = 0.0,
    delay: int = 4,
    activation: float = 0.0,
) -> OuterOptimizer:
    """Return the outer optimizer `name` for `params` [n]; only Nesterov's two use `momentum`.

    Adam has the usual decay rates 0.9 and 0.999 and eps 1e-8. `weight_decay` times the parameters
    is added to the gradient. `delay` and `activation` are N and c of `DelayedNesterov`. Raises
    ValueError for another name, or for what `DelayedNesterov` does not take.
    """
    # foreach=False: the plain code path, the same whatever the tensor's size and device.
    optimizer: torch.optim.Optimizer
    if name == "sgd":
        optimizer = torch.optim.SGD([params], lr=lr, weight_decay=weight_decay, foreach=False)
    elif name == "nesterov":
        optimizer = torch.optim.SGD(
            [params],
            lr=lr,
            momentum=momentum,
            nesterov=True,
            weight_decay=weight_decay,
            foreach=False,
        )
    elif name == "adam":
        optimizer = torch.optim.Adam([params], lr=lr, weight_decay=weight_decay, foreach=False)
    elif name == "delayed-nesterov":
        optimizer = DelayedNesterov([params], lr, momentum, delay, activation, weight_decay)
    else:
        known = ", ".join(get_args(OuterName))
        raise ValueError(f"unknown outer optimizer '{name}'; known: {known}")
    return OuterOptimizer(params, optimizer)


def scheduled_lr(
    schedule: ScheduleName, lr: float, step: int, num_steps: int, halve_every: int
) -> float:
    """Return the learning rate of outer step `step` (from 0) of `num_steps`.

    `linear` and `cosine` fall from `lr` to 0 at step `num_steps`; `halving` halves it every
    `halve_every` steps (Snell et al. 2017, arXiv:1703.05175, section 3.1). Raises ValueError for
    another schedule.
    """
    done = min(step / num_steps, 1.0) if num_steps else 0.0
    if schedule == "constant":
        return lr
    if schedule == "linear":
        return lr * (1 - done)
    if schedule == "cosine":
        return lr * (1 + math.cos(math.pi * done)) / 2
    if schedule == "halving":
        return lr * 0.5 ** (step // halve_every)
    raise ValueError(f"unknown schedule '{schedule}'; known: constant, linear, cosine, halving")
