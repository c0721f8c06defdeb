"""Random maps of image batches, as tensor operations without a loop over images.

The ranges of affine maps are those of Flennerhag et al. (2019), arXiv:1812.01054, appendix D:
rotation by 0-360°, shift by up to ±20 % of the side, scale 0.8-1.2, each drawn uniformly for each
image.

Shape letters: B images, S side of an image in pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

MAX_SHIFT = 0.2  # share of the side
MIN_SCALE, MAX_SCALE = 0.8, 1.2


def draw_affine(num: int, generator: torch.Generator) -> Tensor:
    """Draw `num` affine maps in the ranges above; float32 [num, 2, 3], as `affine_matrices`."""
    uniform = torch.rand(4, num, generator=generator)
    angle = uniform[0] * (2 * math.pi)
    scale = MIN_SCALE + uniform[1] * (MAX_SCALE - MIN_SCALE)
    shift = (uniform[2:].T * 2 - 1) * MAX_SHIFT
    return affine_matrices(angle, scale, shift)


def affine_matrices(angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return the matrices [B, 2, 3] that take a pixel of the result to where its ink comes from.

    The picture is scaled and rotated about its centre, then shifted: a point p of it goes to
    scale · R(angle) · p + shift, so the matrix holds the inverse, R(-angle) · (q - shift) / scale.

    Args:
        angle: Radians [B], from the x-axis (right) towards the y-axis (down).
        scale: Factor [B]; above 1 enlarges.
        shift: Share of the side [B, 2], to the right and down.
    """
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    right, down = 2 * shift[:, 0], 2 * shift[:, 1]  # coordinates run over [-1, 1]
    rows = [
        torch.stack([cos, sin, -(cos * right + sin * down)], dim=1),
        torch.stack([-sin, cos, sin * right - cos * down], dim=1),
    ]
    return torch.stack(rows, dim=1)


def apply_affine(images: Tensor, matrices: Tensor) -> Tensor:
    """Return float32 `images` [B, 1, S, S] mapped by `matrices` [B, 2, 3].

    Bilinear between pixel centres; what comes from outside the picture is background (0).
    """
    side = images.shape[-1]
    x, y = _pixel_centres(side, images.device)
    # Element-wise rather than a matrix product, which autocast would round to bfloat16.
    source = torch.addcmul(matrices[:, :, 2:], matrices[:, :, :1], x)
    source.addcmul_(matrices[:, :, 1:2], y)
    grid = source.view(-1, 2, side, side).permute(0, 2, 3, 1)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@lru_cache(maxsize=16)
def _pixel_centres(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return x and y of the pixel centres, row by row, in [-1, 1]; each [S · S]."""
    centres = (2 * torch.arange(side, device=device, dtype=torch.float32) + 1) / side - 1
    return centres.repeat(side), centres.repeat_interleave(side)


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Return uint8 or float `images` [B, S, S, C] cropped from a black frame, some mirrored.

    Args:
        images: Height before width, channels last.
        offsets: Where the crop begins in the padded image, down and right: int64 [B, 2] in
            [0, 2 · padding]; `padding` leaves an image where it is.
        flips: Whether left and right change places, bool [B].
        padding: Width of the frame on each side, in pixels.
    """
    batch, side = len(images), images.shape[1]
    padded = pad(images, (0, 0, padding, padding, padding, padding))
    steps = torch.arange(side, device=images.device)
    across = torch.where(flips[:, None], side - 1 - steps, steps)
    rows = offsets[:, :1] + steps
    columns = offsets[:, 1:] + across
    which = torch.arange(batch, device=images.device)
    return padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]


def quarter_turns(images: Tensor, turns: Tensor) -> Tensor:
    """Return `images` [B, S, S, …], each turned anticlockwise by 90° `turns` [B] times."""
    turned = images.clone()
    for turn in (1, 2, 3):
        chosen = (turns == turn).nonzero().squeeze(1)
        turned[chosen] = torch.rot90(images[chosen], turn, (1, 2))
    return turned
