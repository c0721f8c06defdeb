"""Delayed Nesterov: momentum for outer gradients that come from outer parameters of several ages.

Liu et al. (2024), "Asynchronous Local-SGD Training for Language Modeling", arXiv:2401.09135,
Algorithm 3.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class DelayedNesterov(torch.optim.Optimizer):
    """Nesterov momentum that is renewed once in N steps, from the mean of their N gradients.

    With m the momentum, Δ the sum of the gradients since it was renewed and g the gradient, a step
    is θ ← θ − lr·(c·β·m + g/N), and each N-th one

        m ← β·m + Δ/N,  θ ← θ − lr·((1 − c·N + c)·β·m + g/N),  Δ ← 0

    so that N steps move by as much as one of Nesterov on the mean of their gradients, of which
    they are each g/N; with N = 1 it is Nesterov's. c shares the momentum out among the N steps: 0
    spends all of it in the N-th, 1/N the same in each.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float,
        delay: int,
        activation: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        """Take the parameters to move in place.

        Args:
            params: Of any shapes.
            lr: Learning rate.
            momentum: β, in [0, 1).
            delay: N, at least 1.
            activation: c, in [0, 1/N].
            weight_decay: Times the parameters, is added to the gradient.

        Raises:
            ValueError: `delay` or `activation` is out of its range.
        """
        if delay < 1:
            raise ValueError(f"delay: expected at least 1, got {delay}")
        if not 0 <= activation <= 1 / delay:
            raise ValueError(
                f"activation: expected a number in [0, 1/{delay}] (1/delay), got {activation}"
            )
        super().__init__(params, {"lr": lr})
        self._beta = momentum
        self._delay = delay
        self._activation = activation
        self._weight_decay = weight_decay

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for params in group["params"]:
                if params.grad is not None:
                    self._move(params, params.grad, group["lr"])

    def _move(self, params: Tensor, grad: Tensor, lr: float) -> None:
        state = self.state[params]
        if not state:
            state["momentum"] = torch.zeros_like(params)
            state["gathered"] = torch.zeros_like(params)
            state["num_gathered"] = torch.zeros(())  # a tensor, to be saved with the others
        if self._weight_decay:
            grad = grad.add(params, alpha=self._weight_decay)
        momentum, gathered, share = state["momentum"], state["gathered"], self._activation
        gathered.add_(grad)
        state["num_gathered"] += 1
        if state["num_gathered"] == self._delay:
            momentum.mul_(self._beta).add_(gathered, alpha=1 / self._delay)
            gathered.zero_()
            state["num_gathered"].zero_()
            share = 1 - self._activation * (self._delay - 1)
        params.add_(momentum, alpha=-lr * share * self._beta)
        params.add_(grad, alpha=-lr / self._delay)
