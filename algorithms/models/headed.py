"""An encoder with a linear output layer: what inner loops train."""

from __future__ import annotations

import math

from torch import Tensor, nn

from algorithms.types import Encoder


class HeadedNetwork(nn.Module):
    """Features of `encoder`, flattened, then a linear layer.

    `head`, the output layer, is the last submodule, so its parameters are the tail of the flat
    parameter vector.
    """

    def __init__(self, encoder: Encoder, num_outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(math.prod(encoder.feature_shape), num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits or predictions [B, num_outputs] for `inputs` [B, …]."""
        outputs: Tensor = self.head(self.encoder(inputs).flatten(1))
        return outputs
