"""The convolutional encoders of Atari papers: Mnih et al. 2013 and 2015."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from algorithms.types import Encoder

_Convolution = tuple[int, int, int]  # filters, kernel size, stride

KERNEL, STRIDE = 8, 4  # of the first convolution of all


class _AtariEncoder(Encoder):
    """Convolutions without padding and a linear layer, each with a ReLU.

    Images [B, in_channels, image_size, image_size] are uint8, which are scaled to 0 … 1, or
    floating-point and taken as they are. Any memory format will do; it is the one computed in.
    `feature_shape` is (num_features,).

    Args:
        in_channels: Channels of an image, stacked frames included.
        image_size: Height and width of an image, in pixels.

    Raises:
        ValueError: The image is too small for the convolutions.
    """

    convolutions: tuple[_Convolution, ...]
    num_features: int

    def __init__(self, in_channels: int = 4, image_size: int = 84) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels={in_channels}: expected at least 1")
        smallest = self._smallest_image()
        if image_size < smallest:
            raise ValueError(f"image_size={image_size}: expected at least {smallest} pixels")
        self.convs = nn.ModuleList()
        channels, size = in_channels, image_size
        for num_filters, kernel, stride in self.convolutions:
            self.convs.append(nn.Conv2d(channels, num_filters, kernel, stride))
            channels, size = num_filters, (size - kernel) // stride + 1
        self.linear = nn.Linear(channels * size * size, self.num_features)
        self.feature_shape = (self.num_features,)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw orthogonal weights that keep the size of activations through ReLUs; no biases."""
        for layer in (*self.convs, self.linear):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map `images` [B, in_channels, H, W] to features [B, num_features]."""
        first, *rest = self.convs
        assert isinstance(first, nn.Conv2d)
        is_bytes = not images.is_floating_point()
        features = relu(_convolve_bytes(first, images) if is_bytes else first(images))
        for conv in rest:
            features = relu(conv(features))
        outputs: Tensor = relu(self.linear(features.flatten(1)))
        return outputs

    @classmethod
    def _smallest_image(cls) -> int:
        size = 1
        for _, kernel, stride in reversed(cls.convolutions):
            size = (size - 1) * stride + kernel
        return size


def _convolve_bytes(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """Return what `conv` makes of uint8 `images` / 255.

    A kernel of twice the stride is one of 2 by 2 over blocks of stride by stride pixels, whose
    pixels are channels: what matrix units are made for, and a few channels are not. Blocks are of
    4 by 4, so their rows are moved as words of 4 bytes. 0 … 255 are exact in bfloat16, and weights
    are far fewer than pixels: so the weights are scaled, not the images.
    """
    kind = images.device.type
    is_mixed = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if is_mixed else conv.weight.dtype
    channels = images.shape[1]
    rows, columns = ((size - KERNEL) // STRIDE + 2 for size in images.shape[2:])
    images = images[:, :, : rows * STRIDE, : columns * STRIDE]  # what the kernel reaches
    # [filters, channels, row of blocks, row in it, column of blocks, column in it]
    weight = conv.weight.view(-1, channels, 2, STRIDE, 2, STRIDE) / 255
    if images.is_contiguous(memory_format=torch.channels_last) and channels > 1:
        pixels = images.permute(0, 2, 3, 1).view(-1, rows, STRIDE, columns, STRIDE * channels)
        words = pixels.view(torch.int32).transpose(2, 3)
        weight = weight.permute(0, 2, 4, 3, 5, 1)
    else:
        lines = images.contiguous().view(torch.int32)
        words = lines.view(-1, channels, rows, STRIDE, columns).permute(0, 2, 4, 1, 3)
        weight = weight.permute(0, 2, 4, 1, 3, 5)
    blocks = words.contiguous().view(torch.uint8).view(-1, rows, columns, STRIDE**2 * channels)
    return conv2d(
        blocks.to(dtype).permute(0, 3, 1, 2), weight.flatten(3).permute(0, 3, 1, 2), conv.bias
    )


class SmallAtariEncoder(_AtariEncoder):
    """Mnih et al. (2013), arXiv:1312.5602, section 4.1: 16 and 32 filters, 256 features.

    The encoder of A3C (arXiv:1602.01783) and of Leap's Atari experiment (arXiv:1812.01054,
    appendix F).
    """

    convolutions = ((16, KERNEL, STRIDE), (32, 4, 2))
    num_features = 256


class NatureEncoder(_AtariEncoder):
    """Mnih et al. (2015), Nature 518, methods: 32, 64 and 64 filters, 512 features."""

    convolutions = ((32, KERNEL, STRIDE), (64, 4, 2), (64, 3, 1))
    num_features = 512
