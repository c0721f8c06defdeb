"""Mean and standard deviation of colour channels, to normalise images with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from pipeline.data.image_classes import ImageClasses

GREY_SCALE = ((0.0,), (1.0,))  # leaves the ink of images of one channel in [0, 1]


def channel_statistics(
    dataset: ImageClasses, classes: Iterable[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel over all images of `classes`; white is 1.

    Sums are of integers, so the figures are the same in any order and with any number of threads.
    """
    num = 0
    sums = torch.zeros(2, 3, dtype=torch.int64)
    for number in classes:
        rows = dataset.classes[number].rows
        images = np.ascontiguousarray(dataset.images[rows.start : rows.stop])
        pixels = torch.from_numpy(images.reshape(-1, 3).copy()).int()
        sums += torch.stack([pixels.sum(0), pixels.square().sum(0)])
        num += len(pixels)
    mean, square = (sums.double() / num / torch.tensor([[255.0], [255.0**2]])).unbind()
    deviation = (square - mean.square()).sqrt().clamp(min=1 / 255)  # of one grey: not divided by 0
    return tuple(mean.tolist()), tuple(deviation.tolist())
