"""Residual encoders of few-shot papers: ResNet-12 and wide residual networks."""

from __future__ import annotations

from itertools import pairwise, starmap

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
    """Four blocks of three 3×3 convolutions, each with a shortcut and max-pool 2, then an average.

    Oreshkin et al. (2018), TADAM, arXiv:1805.10123, section 3.1: widths 64-128-256-512. LeakyReLU
    0.1 as Lee et al. (2019), MetaOptNet, arXiv:1904.03758, section 4.1.

    Args:
        in_channels: Channels of an image.
        image_size: Height and width of an image, in pixels; each block halves them, rounding down.

    Raises:
        ValueError: the image is too small for four halvings.
    """

    def __init__(self, in_channels: int = 3, image_size: int = 84) -> None:
        super().__init__()
        widths = (64, 128, 256, 512)
        if image_size >> len(widths) < 1:
            raise ValueError(
                f"image_size={image_size}: four blocks halve each side of an image, so it needs 16 "
                "pixels"
            )
        self.blocks = nn.Sequential(*starmap(_PooledBlock, pairwise((in_channels, *widths))))
        self.input_shape = (in_channels, image_size, image_size)
        self.feature_shape = (widths[-1],)
        self.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Map `images` [B, in_channels, H, W] to features [B, 512]."""
        maps: Tensor = self.blocks(images)
        return maps.mean(dim=(2, 3))


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
    three groups of four blocks of two 3×3 convolutions, of 16, 32 and 64 times `width` filters;
    the second and third group halve height and width, rounding up; batch-norm, ReLU and average.

    Args:
        in_channels: Channels of an image.
        image_size: Height and width of an image, in pixels.
        width: Factor k of the filters.
    """

    def __init__(self, in_channels: int = 3, image_size: int = 32, width: int = 10) -> None:
        super().__init__()
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.stem = nn.Conv2d(in_channels, widths[0], kernel_size=3, padding=1, bias=False)
        blocks = []
        for group in range(3):
            for block in range(4):
                before = widths[group] if block == 0 else widths[group + 1]
                stride = 2 if group > 0 and block == 0 else 1
                blocks.append(_WideBlock(before, widths[group + 1], stride))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.input_shape = (in_channels, image_size, image_size)
        self.feature_shape = (widths[-1],)
        self.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Map `images` [B, in_channels, H, W] to features [B, 64 · width]."""
        return relu(self.norm(self.blocks(self.stem(images)))).mean(dim=(2, 3))


class _WideBlock(nn.Module):
    """B(3, 3) with pre-activation; the shortcut is projected where the shape changes."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != width:
            self.shortcut = nn.Conv2d(in_channels, width, 1, stride=stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        active = relu(self.norm1(features))
        residual: Tensor = self.conv2(relu(self.norm2(self.conv1(active))))
        shortcut = features if self.shortcut is None else self.shortcut(active)
        return torch.add(residual, shortcut)
