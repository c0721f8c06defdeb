"""Fully connected encoders: the network of the sinusoid regression, and that of control."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from algorithms.types import Encoder


class PerceptronEncoder(nn.Sequential, Encoder):
    """Linear layers, each with a ReLU: by default MAML's for sinusoids, without its last layer.

    Finn, Abbeel and Levine (2017), arXiv:1703.03400, section 5.1: two hidden layers of 40 units.
    An `Encoder`: `feature_shape` is (last width,).

    Args:
        in_features: Numbers in an input.
        widths: Units of each layer.

    Raises:
        ValueError: `widths` is empty.
    """

    def __init__(self, in_features: int = 1, widths: Sequence[int] = (40, 40)) -> None:
        super().__init__(*_layers(in_features, widths, nn.ReLU))
        self.input_shape, self.feature_shape = (in_features,), (widths[-1],)


class TanhEncoder(nn.Sequential, Encoder):
    """Linear layers, each with a tanh: the usual one for vector observations in control.

    Schulman et al. (2017), arXiv:1707.06347, section 6.1: two hidden layers of 64 units.
    An `Encoder`: `feature_shape` is (last width,).

    Args:
        in_features: Numbers in an observation.
        widths: Units of each layer.

    Raises:
        ValueError: `widths` is empty.
    """

    def __init__(self, in_features: int, widths: Sequence[int] = (64, 64)) -> None:
        super().__init__(*_layers(in_features, widths, nn.Tanh))
        self.input_shape, self.feature_shape = (in_features,), (widths[-1],)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw orthogonal weights of gain √2; no biases."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, math.sqrt(2))
                nn.init.zeros_(layer.bias)


def _layers(
    in_features: int, widths: Sequence[int], activation: Callable[[], nn.Module]
) -> list[nn.Module]:
    if not widths:
        raise ValueError("widths: expected at least one layer")
    sizes = [in_features, *widths]
    layers: list[nn.Module] = []
    for before, after in zip(sizes, widths, strict=False):
        layers += [nn.Linear(before, after), activation()]
    return layers
