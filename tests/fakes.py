"""Fakes of our own classes: a quadratic task whose path is known by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Point(nn.Module):
    """A model that is nothing but a position: P parameters, no input."""

    def __init__(self, position: list[float]) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.tensor(position, dtype=torch.float64))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.position)


class QuadraticTask:
    """f(θ) = curvature/2 · ‖θ − target‖²: a Task without data.

    With inner SGD of rate lr, θ_i = target + (1 − lr·curvature)^i · (θ_0 − target), a straight
    line; lr·curvature between 1 and 2 overshoots, above 2 diverges.
    """

    def __init__(self, target: list[float], curvature: float = 1.0) -> None:
        self.target = torch.tensor(target, dtype=torch.float64)
        self.curvature = curvature
        self.steps_seen: list[int] = []

    def loss(self, model: nn.Module, step: int) -> Tensor:
        self.steps_seen.append(step)
        (position,) = model.parameters()
        target = self.target.to(position)
        return self.curvature / 2 * (position - target).square().sum()

    def training_metrics(self) -> dict[str, Tensor]:
        return {}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"loss": float(self.loss(model, step=0))}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {}

    def position_after(self, start: Tensor, num_steps: int, lr: float) -> Tensor:
        """Where inner SGD of rate `lr` stands after `num_steps` steps from `start`."""
        return self.target + (1 - lr * self.curvature) ** num_steps * (start - self.target)


class RegressionTask:
    """Noisy minibatches of a random regression, for models that take inputs [B, inputs].

    The minibatch is drawn from the seed and the step alone. `error` is the share of examples
    that are off by more than one.
    """

    def __init__(self, num_inputs: int, seed: int, batch_size: int = 6) -> None:
        self.num_inputs = num_inputs
        self.seed = seed
        self.batch_size = batch_size
        self._error = torch.tensor(torch.nan)

    def minibatch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        inputs = torch.randn(
            self.batch_size, self.num_inputs, generator=generator, dtype=torch.float64
        )
        noise = torch.randn(self.batch_size, generator=generator, dtype=torch.float64)
        return inputs, inputs.sum(dim=1).sin() + self.seed + 0.3 * noise

    def loss(self, model: nn.Module, step: int) -> Tensor:
        dtype = next(model.parameters()).dtype
        inputs, wanted = (tensor.to(dtype) for tensor in self.minibatch(step))
        off = model(inputs).squeeze(1).to(dtype) - wanted
        self._error = (off.detach().abs() > 1).double().mean()
        return off.square().mean()

    def training_metrics(self) -> dict[str, Tensor]:
        return {"error": self._error}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"loss": float(self.loss(model, step=-1))}

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed = state["seed"]


def small_network(batch_norm: bool = False) -> nn.Sequential:
    """A float64 network of 3 inputs for `RegressionTask`, the same on every call."""
    norm = nn.BatchNorm1d(5) if batch_norm else nn.Identity()
    network = nn.Sequential(nn.Linear(3, 5), norm, nn.Tanh(), nn.Linear(5, 1)).double()
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        parameter.data.normal_(generator=generator)
    return network
