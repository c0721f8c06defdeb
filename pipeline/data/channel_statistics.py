"""Mean and standard deviation of colour channels, to normalise images with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pipeline.data.image_classes import ImageClasses

GREY_SCALE = ((0.0,), (1.0,))  # leaves the ink of images of one channel in [0, 1]


def channel_statistics(
    dataset: ImageClasses, classes: Iterable[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel over all images of `classes`; white is 1.

    Pixels are counted, not summed: the figures are the same on every worker.
    """
    counts = np.zeros((3, 256), dtype=np.int64)  # of each value in each channel
    for number in classes:
        rows = dataset.classes[number].rows
        images = dataset.images[rows.start : rows.stop]
        counts += [np.bincount(images[..., c].ravel(), minlength=256) for c in range(3)]
    shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = shares @ values
    deviation = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    deviation = np.maximum(deviation, 1 / 255)  # images of one colour are not divided by 0
    return tuple(mean.tolist()), tuple(deviation.tolist())
