"""Fully connected encoder: the network of the sinusoid regression."""

from __future__ import annotations

from collections.abc import Sequence

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
        if not widths:
            raise ValueError("widths: expected at least one layer")
        sizes = [in_features, *widths]
        layers: list[nn.Module] = []
        for before, after in zip(sizes, widths, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers)
        self.input_shape, self.feature_shape = (in_features,), (widths[-1],)
