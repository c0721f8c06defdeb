"""Parts that the tests of metric learners share: features in the place of images."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

# Shots of each class: any number of ways, uneven.
shots = st.lists(st.integers(1, 4), min_size=2, max_size=5)


def draw_features(num_shots: list[int], num_queries: int, *shape: int, seed: int = 0):
    """Support features of uneven classes in random order, their labels, query features."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([k for k, count in enumerate(num_shots) for _ in range(count)])
    labels = labels[torch.randperm(len(labels), generator=generator)]
    support = torch.randn(len(labels), *shape, generator=generator, dtype=torch.float64)
    query = torch.randn(num_queries, *shape, generator=generator, dtype=torch.float64)
    return support, labels, query


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
