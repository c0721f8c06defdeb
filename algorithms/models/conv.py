"""Convolutional networks: the few-shot encoder, and the network of the Leap-Omniglot experiment."""

from __future__ import annotations

from torch import Tensor, nn

from algorithms.models.fused_block import can_fuse, fused_block
from algorithms.models.headed import HeadedNetwork
from algorithms.types import Encoder


class ConvBlock(nn.Module):
    """Convolution 3×3, batch-norm, ReLU and max-pool 2: halves height and width.

    Pooling comes before the batch-norm (`pool_first`, a fourth of the work, the statistics are
    of what passes on) or after the ReLU, as few-shot papers draw the block; or not at all
    (`pooled` is false), and height and width stay.
    """

    def __init__(
        self,
        in_channels: int,
        num_filters: int,
        batch_norm: bool,
        pool_first: bool = True,
        pooled: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_filters, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2) if pooled else nn.Identity()
        self.norm = nn.BatchNorm2d(num_filters) if batch_norm else nn.Identity()
        self.relu = nn.ReLU()
        self.pool_first = pool_first

    def forward(self, images: Tensor) -> Tensor:
        """Map `images` [B, C, H, W] to features [B, num_filters, H // 2, W // 2]."""
        is_usual = isinstance(self.pool, nn.MaxPool2d) and not self.pool_first
        if is_usual and can_fuse(self.norm, self.conv, images):
            return fused_block(self.conv, self.norm, images)
        return self.finish(self.conv(images))

    def finish(self, features: Tensor) -> Tensor:
        """Do what follows the convolution, whose result is `features` [B, num_filters, H, W]."""
        if self.pool_first:
            features = self.relu(self.norm(self.pool(features)))
        else:
            features = self.pool(self.relu(self.norm(features)))
        return features


class ConvEncoder(nn.Sequential, Encoder):
    """Blocks of 3×3 convolutions: the Conv-4-64 of few-shot papers, by default.

    Vinyals et al. (2016), arXiv:1606.04080, section 4.1; Snell et al. (2017), arXiv:1703.05175,
    section 3.1. An `Encoder` (see `algorithms.types`): `feature_shape` is
    (num_filters, height, width) of its output.

    Args:
        in_channels: Channels of an image.
        image_size: Height and width of an image, in pixels.
        num_filters: Filters of each convolution.
        num_blocks: Blocks; each halves height and width, rounding down.
        batch_norm: Whether the blocks normalise over the minibatch.
        pool_first: Whether a block pools before it normalises.
        num_pooled_blocks: How many of the blocks pool, the first ones; by default all. Relation
            networks (arXiv:1711.06025) leave pooling out of the last two of four.

    Raises:
        ValueError: The image is too small for that many halvings, or there are not so many blocks.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        num_filters: int = 64,
        num_blocks: int = 4,
        batch_norm: bool = True,
        pool_first: bool = True,
        num_pooled_blocks: int | None = None,
    ) -> None:
        num_pooled = num_blocks if num_pooled_blocks is None else num_pooled_blocks
        if not 0 <= num_pooled <= num_blocks:
            raise ValueError(f"num_pooled_blocks={num_pooled}: expected 0 to {num_blocks}")
        size = image_size >> num_pooled
        if size < 1:
            raise ValueError(
                f"num_blocks={num_blocks}: each block halves the image, and {image_size} pixels "
                f"can be halved {image_size.bit_length() - 1} times"
            )
        channels = [in_channels] + [num_filters] * num_blocks
        super().__init__(
            *(
                ConvBlock(channels[i], num_filters, batch_norm, pool_first, pooled=i < num_pooled)
                for i in range(num_blocks)
            )
        )
        self.input_shape = (in_channels, image_size, image_size)
        self.feature_shape = (num_filters, size, size)


class ConvNet(HeadedNetwork):
    """The network of the Leap-Omniglot experiment: a `ConvEncoder` and a linear layer.

    Flennerhag et al. (2019), arXiv:1812.01054, appendix D, with four blocks of 64 filters. Takes
    the encoder's arguments after `num_classes`, the number of outputs.
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
        encoder = ConvEncoder(in_channels, image_size, num_filters, num_blocks, batch_norm)
        super().__init__(encoder, num_classes)
