"""Residual encoders of few-shot papers: ResNet-12 and wide residual networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from algorithms.types import Encoder


class _ResidualEncoder(Encoder):
    """An encoder whose convolutions start as He et al. (2015), arXiv:1502.01852, propose."""

    def reset_parameters(self) -> None:
        """Draw the convolutions anew, for activations that keep their size through the depth.

        Batch-norms draw nothing: their own `reset_parameters` restores ones and zeros.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResNet12(_ResidualEncoder):
    """Four blocks of three 3×3 convolutions, each with a shortcut and max-pool 2.

    Oreshkin et al. (2018), TADAM, arXiv:1805.10123, section 3.1: widths 64-128-256-512. Lee et
    al. (2019), MetaOptNet, arXiv:1904.03758, section 4.1: 64-160-320-640, LeakyReLU 0.1, no
    global pooling; their DropBlock is left out. `feature_shape` is (last width,) or, without
    global pooling, (last width, height, width).

    Args:
        in_channels: Channels of an image.
        image_size: Height and width of an image, in pixels.
        widths: Filters of each block; each halves height and width, rounding down.
        global_pool: Whether features are averaged over height and width.

    Raises:
        ValueError: `widths` is empty, or the image is too small for that many halvings.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 84,
        widths: Sequence[int] = (64, 128, 256, 512),
        global_pool: bool = True,
    ) -> None:
        super().__init__()
        size = image_size >> len(widths)
        if not widths:
            raise ValueError("widths: expected at least one block")
        if size < 1:
            raise ValueError(
                f"widths: {len(widths)} blocks halve an image of {image_size} pixels to nothing"
            )
        channels = [in_channels, *widths]
        self.blocks = nn.Sequential(
            *(_PooledBlock(channels[i], channels[i + 1]) for i in range(len(widths)))
        )
        self.global_pool = global_pool
        self.feature_shape = (widths[-1],) if global_pool else (widths[-1], size, size)
        self.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Map `images` [B, in_channels, H, W] to features [B, *feature_shape]."""
        maps: Tensor = self.blocks(images)
        return maps.mean(dim=(2, 3)) if self.global_pool else maps


class _PooledBlock(nn.Module):
    """Three convolutions with batch-norm, plus a projected shortcut; LeakyReLU, max-pool 2."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        channels = [in_channels, width, width, width]
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [
                nn.Conv2d(channels[i], width, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.1),
            ]
        self.residual = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=1, bias=False), nn.BatchNorm2d(width)
        )
        self.relu = nn.LeakyReLU(0.1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.pool(self.relu(self.residual(images) + self.shortcut(images)))
        return features


class WideResNet(_ResidualEncoder):
    """Wide residual network, WRN-28-10 by default: blocks of batch-norm, ReLU, convolution.

    Zagoruyko and Komodakis (2016), arXiv:1605.07146, table 1: a convolution of 16 filters, then
    three groups of (depth − 4) / 6 blocks of two 3×3 convolutions, of 16, 32 and 64 times `width`
    filters; the second and third group halve height and width, rounding up; batch-norm, ReLU and
    average. `feature_shape` is (64 · width,) or, without global pooling, with height and width.

    Args:
        in_channels: Channels of an image.
        image_size: Height and width of an image, in pixels.
        depth: Convolutional layers, 6 n + 4.
        width: Factor k of the filters.
        dropout: Share of activations dropped between a block's convolutions, in training.
        global_pool: Whether features are averaged over height and width.

    Raises:
        ValueError: `depth` is not 6 n + 4 with n ≥ 1, or `dropout` not in 0 … 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 32,
        depth: int = 28,
        width: int = 10,
        dropout: float = 0.0,
        global_pool: bool = True,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth: expected 6 n + 4 (10, 16, 22, 28, …), got {depth}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected 0 or more and less than 1, got {dropout}")
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.stem = nn.Conv2d(in_channels, widths[0], kernel_size=3, padding=1, bias=False)
        blocks = []
        for group in range(3):
            for block in range((depth - 4) // 6):
                before = widths[group] if block == 0 else widths[group + 1]
                stride = 2 if group > 0 and block == 0 else 1
                blocks.append(_WideBlock(before, widths[group + 1], stride, dropout))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.global_pool = global_pool
        size = math.ceil(image_size / 4)
        self.feature_shape = (widths[-1],) if global_pool else (widths[-1], size, size)
        self.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Map `images` [B, in_channels, H, W] to features [B, *feature_shape]."""
        maps = relu(self.norm(self.blocks(self.stem(images))))
        return maps.mean(dim=(2, 3)) if self.global_pool else maps


class _WideBlock(nn.Module):
    """B(3, 3) with pre-activation; the shortcut is projected where the shape changes."""

    def __init__(self, in_channels: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != width:
            self.shortcut = nn.Conv2d(in_channels, width, 1, stride=stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        active = relu(self.norm1(features))
        residual: Tensor = self.conv2(self.dropout(relu(self.norm2(self.conv1(active)))))
        shortcut = features if self.shortcut is None else self.shortcut(active)
        return torch.add(residual, shortcut)
