"""The baseline of `bench inner-loop`: the inner loop as a researcher writes it in plain PyTorch.

A Dataset that augments one PIL picture at a time, a DataLoader, a float32 model of the usual
modules in the usual memory layout, torch.optim.SGD, `.item()` and a copy of the state at each
step. It shares no code with what is measured against it, but the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from jobs.bench.measured_process import Take


class Drawings(Dataset[tuple[Tensor, int]]):
    """Uint8 drawings [N, S, S], each mapped by a random affine map when it is taken."""

    def __init__(self, drawings: np.ndarray[Any, np.dtype[np.uint8]], num_ways: int) -> None:
        self._pictures = [Image.fromarray(drawing) for drawing in drawings]
        self._drawings_per_way = len(drawings) // num_ways

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self._pictures[index]
        mapped = picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            _random_affine(picture.width),
            resample=Image.Resampling.BILINEAR,
        )
        pixels = np.asarray(mapped, dtype=np.float32) / 255
        return torch.from_numpy(pixels)[None], index // self._drawings_per_way


def plain_loop(
    drawings: np.ndarray[Any, np.dtype[np.uint8]],
    num_ways: int,
    batch_size: int,
    lr: float,
    num_filters: int,
    loader_workers: int,
) -> Take:
    """Return the loop over `drawings` [N, S, S], class by class; it trains on without end."""
    loader = DataLoader(
        Drawings(drawings, num_ways),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=loader_workers,
        persistent_workers=loader_workers > 0,
    )
    batches = _endless(loader)
    model = _model(num_ways, num_filters)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    criterion = nn.CrossEntropyLoss()

    def take(num_steps: int) -> tuple[list[float], dict[str, Tensor]]:
        losses: list[float] = []
        state: dict[str, Tensor] = {}
        for _ in range(num_steps):
            inputs, labels = next(batches)
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            state = {name: value.clone() for name, value in model.state_dict().items()}
        return losses, state

    take(2)  # starts the loader's processes
    return take


def _endless(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def _model(num_ways: int, num_filters: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 1
    for _ in range(4):
        layers += [
            nn.Conv2d(channels, num_filters, 3, padding=1),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(num_filters),
            nn.ReLU(),
        ]
        channels = num_filters
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(num_filters, num_ways))


def _random_affine(side: int) -> tuple[float, ...]:
    """Return PIL's six coefficients, from the result's pixels to the picture's."""
    angle = float(torch.rand(())) * 2 * math.pi
    scale = 0.8 + 0.4 * float(torch.rand(()))
    right, down = (torch.rand(2) * 0.4 - 0.2).mul_(side).tolist()
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    x, y = side / 2 + right, side / 2 + down
    return cos, sin, side / 2 - cos * x - sin * y, -sin, cos, side / 2 + sin * x - cos * y
