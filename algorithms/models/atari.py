"""The convolutional encoders of Atari papers: Mnih et al. 2013 and 2015."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from algorithms.types import Encoder

_Convolution = tuple[int, int, int]  # filters, kernel size, stride


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
        features = relu(self._convolve_first(first, images))
        for conv in rest:
            features = relu(conv(features))
        outputs: Tensor = relu(self.linear(features.flatten(1)))
        return outputs

    @staticmethod
    def _convolve_first(conv: nn.Module, images: Tensor) -> Tensor:
        assert isinstance(conv, nn.Conv2d)
        if images.is_floating_point():
            maps: Tensor = conv(images)
            return maps
        # 0 … 255 are exact in bfloat16, and weights are far fewer than pixels: so the type is
        # changed in one pass over the images, and the weights are scaled instead.
        kind = images.device.type
        is_mixed = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if is_mixed else conv.weight.dtype
        return conv2d(images.to(dtype), conv.weight / 255, conv.bias, conv.stride)

    @classmethod
    def _smallest_image(cls) -> int:
        size = 1
        for _, kernel, stride in reversed(cls.convolutions):
            size = (size - 1) * stride + kernel
        return size


class SmallAtariEncoder(_AtariEncoder):
    """Mnih et al. (2013), arXiv:1312.5602, section 4.1: 16 and 32 filters, 256 features.

    The encoder of A3C (arXiv:1602.01783) and of Leap's Atari experiment (arXiv:1812.01054,
    appendix F).
    """

    convolutions = ((16, 8, 4), (32, 4, 2))
    num_features = 256


class NatureEncoder(_AtariEncoder):
    """Mnih et al. (2015), Nature 518, methods: 32, 64 and 64 filters, 512 features."""

    convolutions = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    num_features = 512
