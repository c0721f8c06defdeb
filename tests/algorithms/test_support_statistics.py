"""Batch-norm by the statistics of the first examples of a batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from algorithms.episodic.support_statistics import SupportStatistics


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_statistics_are_those_of_the_support_set_whatever_the_precision(dtype, affine):
    """In bfloat16 what comes out is rounded; the statistics of numbers around 50 must not be."""
    generator = torch.Generator().manual_seed(0)
    inputs = (50 + torch.randn(7, 3, 4, 4, generator=generator)).to(dtype)
    norm = nn.BatchNorm2d(3, affine=affine)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    with SupportStatistics(4):
        found = norm(inputs)
    exact = inputs.double()
    mean = exact[:4].mean(dim=(0, 2, 3), keepdim=True)
    variance = exact[:4].var(dim=(0, 2, 3), correction=0, keepdim=True)
    expected = (exact - mean) / (variance + 1e-5).sqrt()
    if affine:
        weight, bias = (p.detach().double()[:, None, None] for p in (norm.weight, norm.bias))
        expected = expected * weight + bias
    assert found.dtype is dtype
    tolerance = 1e-2 if dtype is torch.bfloat16 else 1e-6
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    assert (norm.running_mean == 0).all()
