"""Small episodes and encoders for tests of learners."""

from __future__ import annotations

import torch

from algorithms.models.conv import ConvEncoder
from algorithms.models.perceptron import PerceptronEncoder
from algorithms.types import Encoder, Episode


def image_episode(
    num_ways: int = 3,
    num_shots: int = 2,
    num_queries: int = 4,
    side: int = 8,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Episode:
    """Classes are noisy copies of a random picture each; support and queries are shuffled."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    pictures = draw(num_ways, 1, side, side)
    sets = []
    for count in (num_shots, num_queries):
        labels = torch.arange(num_ways).repeat_interleave(count)
        labels = labels[torch.randperm(len(labels), generator=generator)]
        sets += [pictures[labels] + 0.5 * draw(len(labels), 1, side, side), labels]
    return Episode(*sets, num_ways=num_ways)


def sinusoid_episode(
    num_shots: int = 5, num_queries: int = 7, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Episode:
    """A sine with an amplitude and a phase of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = 10 * torch.rand(num_shots + num_queries, 1, generator=generator, dtype=dtype) - 5
    amplitude, phase = torch.rand(2, generator=generator, dtype=dtype).tolist()
    y = (0.1 + 4.9 * amplitude) * torch.sin(x - 3.1416 * phase)
    return Episode(x[:num_shots], y[:num_shots], x[num_shots:], y[num_shots:], num_ways=0)


def image_encoder(
    side: int = 8, seed: int = 0, batch_norm: bool = True, pool_first: bool = True
) -> Encoder:
    """Two blocks of four filters in float64; features [4, side // 4, side // 4]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ConvEncoder(
            1, side, num_filters=4, num_blocks=2, batch_norm=batch_norm, pool_first=pool_first
        )
    return encoder.double()


def vector_encoder(seed: int = 0) -> Encoder:
    """One number to six features, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PerceptronEncoder(1, (6, 6)).double()
