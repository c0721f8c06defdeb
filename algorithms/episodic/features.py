"""Features and labels as vectors, and what the examples of a class have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def full_precision(method: Callable[..., Result]) -> Callable[..., Result]:
    """Make a method whose first argument is a tensor work outside autocast.

    What comes after the encoder costs little, and bfloat16's 8 bits are too few for it.
    """

    @wraps(method)
    def outside_autocast(self: Any, tensor: Tensor, *args: Any) -> Result:
        with torch.autocast(tensor.device.type, enabled=False):
            return method(self, tensor, *args)

    return outside_autocast


def vectors(features: Tensor) -> Tensor:
    """Return `features` [B, …] flattened [B, F], with 32 bits or more a number."""
    return features.flatten(1).to(torch.promote_types(features.dtype, torch.float32))


def one_hot(labels: Tensor, num_ways: int, like: Tensor) -> Tensor:
    """Return `labels` [S] as rows [S, N] of zeros and a one, of the type and device of `like`."""
    return torch.eye(num_ways, dtype=like.dtype, device=like.device)[labels]


def class_means(features: Tensor, labels: Tensor, num_ways: int) -> Tensor:
    """Return the mean of `features` [S, F] over each class: [N, F].

    Every class needs an example: the mean of none is NaN.
    """
    members = one_hot(labels, num_ways, features).T
    return members @ features / members.sum(dim=1, keepdim=True)
