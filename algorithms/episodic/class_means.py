"""Labels as vectors, and what the examples of a class have in common."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(labels: Tensor, num_ways: int, like: Tensor) -> Tensor:
    """Return `labels` [S] as rows [S, N] of zeros and a one, of the type and device of `like`."""
    return torch.eye(num_ways, dtype=like.dtype, device=like.device)[labels]


def class_means(features: Tensor, labels: Tensor, num_ways: int) -> Tensor:
    """Return the mean of `features` [S, F] over each class: [N, F].

    Every class needs an example: the mean of none is NaN.
    """
    members = one_hot(labels, num_ways, features).T
    return members @ features / members.sum(dim=1, keepdim=True)
