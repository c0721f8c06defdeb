"""Learning rates of an inner loop that are themselves meta-learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEARNED_RATES = ("none", "per_step", "per_layer", "per_parameter")


class InnerRates(nn.Module):
    """The rates that an inner SGD step multiplies each gradient with; all begin at `lr`.

    - `per_step`: one for each step [K];
    - `per_layer`: one for each step and tensor of parameters [K, L], "learning per-layer
      per-step learning rates" of MAML++, Antoniou et al. (2019), arXiv:1810.09502, section 4;
      as in the authors' code a layer's weight and its bias have rates of their own;
    - `per_parameter`: one for each parameter, the same in all steps [P]: Meta-SGD, Li et al.
      (2017), arXiv:1707.09835, eq. 3.

    Rates may become negative, as in these papers. Steps beyond K use the rates of the last.

    Args:
        kind: Which of the three.
        lr: The first value.
        num_steps: K.
        shapes: Shape of each of the L tensors, P elements in all.
    """

    def __init__(self, kind: str, lr: float, num_steps: int, shapes: Sequence[torch.Size]) -> None:
        super().__init__()
        self.kind = kind
        self.lr = lr
        self.shapes = tuple(shapes)
        size = {
            "per_step": (num_steps,),
            "per_layer": (num_steps, len(shapes)),
            "per_parameter": (sum(shape.numel() for shape in shapes),),
        }[kind]
        self.values = nn.Parameter(torch.empty(size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every rate to `lr`."""
        nn.init.constant_(self.values, self.lr)

    def forward(self, step: int) -> list[Tensor]:
        """Return the rates of `step`, one tensor for each of the L: shape [] or its own."""
        if self.kind == "per_parameter":
            pieces = self.values.split_with_sizes([shape.numel() for shape in self.shapes])
            return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        row = self.values[min(step, len(self.values) - 1)]
        return list(row.expand(len(self.shapes)).unbind())
