"""The convolutional network of the Leap-Omniglot experiment."""

from __future__ import annotations

from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Convolution 3×3, max-pool 2, batch-norm, ReLU: halves height and width."""

    def __init__(self, in_channels: int, num_filters: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_filters, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(num_filters) if batch_norm else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Map `images` [B, C, H, W] to features [B, num_filters, H // 2, W // 2]."""
        features: Tensor = self.relu(self.norm(self.pool(self.conv(images))))
        return features


class ConvNet(nn.Module):
    """Blocks of conv 3×3, max-pool, batch-norm and ReLU, then a linear layer.

    The network of the Leap-Omniglot experiment (Flennerhag et al., ICLR 2019, appendix D) with
    its four blocks of 64 filters. `head`, the output layer, is the last submodule, so its
    parameters are the tail of the flat parameter vector.

    Args:
        num_classes: Outputs of the head.
        in_channels: Channels of an image.
        image_size: Height and width of an image, in pixels.
        num_filters: Filters of each convolution.
        num_blocks: Blocks; each halves height and width.
        batch_norm: Whether the blocks normalise over the minibatch.

    Raises:
        ValueError: The image is too small for `num_blocks` halvings.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1,
        image_size: int = 28,
        num_filters: int = 64,
        num_blocks: int = 4,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        size = image_size >> num_blocks
        if size < 1:
            raise ValueError(
                f"num_blocks={num_blocks}: each block halves the image, and {image_size} pixels "
                f"can be halved {image_size.bit_length() - 1} times"
            )
        channels = [in_channels] + [num_filters] * num_blocks
        self.blocks = nn.Sequential(
            *(ConvBlock(channels[i], num_filters, batch_norm) for i in range(num_blocks))
        )
        self.head = nn.Linear(num_filters * size * size, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, num_classes] for `images` [B, in_channels, image_size, image_size]."""
        logits: Tensor = self.head(self.blocks(images).flatten(1))
        return logits
