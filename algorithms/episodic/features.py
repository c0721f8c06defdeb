"""Features and labels as vectors, and what the examples of a class have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def full_precision(method: Callable[..., Result]) -> Callable[..., Result]:
    """Make a method of tensors work outside autocast, on 32 bits or more a number.

    What comes after the encoder costs little, and bfloat16's 8 bits are too few for it: distances
    are differences of large sums.
    """

    @wraps(method)
    def widened(self: Any, tensor: Tensor, *args: Any) -> Result:
        rest = (widen(value) if isinstance(value, Tensor) else value for value in args)
        with torch.autocast(tensor.device.type, enabled=False):
            return method(self, widen(tensor), *rest)

    return widened


def widen(tensor: Tensor) -> Tensor:
    """Return `tensor`, with 32 bits a number where it has 16; labels stay as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def vectors(features: Tensor) -> Tensor:
    """Return `features` [B, …] flattened [B, F], with 32 bits or more a number."""
    return widen(features.flatten(1))


def one_hot(labels: Tensor, num_ways: int, like: Tensor) -> Tensor:
    """Return `labels` [S] as rows [S, N] of zeros and a one, of the type and device of `like`."""
    return torch.eye(num_ways, dtype=like.dtype, device=like.device)[labels]


def class_means(features: Tensor, labels: Tensor, num_ways: int) -> Tensor:
    """Return the mean of `features` [S, F] over each class: [N, F].

    Every class needs an example: the mean of none is NaN.
    """
    members = one_hot(labels, num_ways, features).T
    return members @ features / members.sum(dim=1, keepdim=True)
