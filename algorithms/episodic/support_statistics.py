"""Batch-norm by the statistics of the support set alone, for queries that must not help each other.

The usual batch-norm of an adapted network has two choices: the statistics of the queries, which
makes the answers transductive, or running averages, which belong to other parameters and other
tasks. The support set's statistics are of this task and of these parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode


class SupportStatistics(TorchFunctionMode):
    """Within the block, batch-norms take mean and variance from the first examples of a batch.

    The statistics can be differentiated; running ones are neither used nor changed.

    Args:
        num_support: How many examples, at the front of every batch, give the statistics.
    """

    def __init__(self, num_support: int) -> None:
        super().__init__()
        self.num_support = num_support

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace calls of `batch_norm`; let every other function of torch pass."""
        if func is batch_norm:
            return self._normalise(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _normalise(
        self,
        inputs: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Stand in for `batch_norm`, whose arguments these are; inputs are [B, C, …]."""
        # In bfloat16 the statistics would lose digits: float32 at least, as batch_norm does.
        support = inputs[: self.num_support]
        support = support.to(torch.promote_types(inputs.dtype, torch.float32))
        others = [d for d in range(inputs.ndim) if d != 1]
        variance, mean = torch.var_mean(support, others, correction=0, keepdim=True)
        scale = torch.rsqrt(variance + eps)
        if weight is not None:
            scale = scale * weight.view_as(scale)
        normalised = (inputs - mean) * scale
        if bias is not None:
            normalised = normalised + bias.view_as(scale)
        return normalised.to(inputs.dtype)
