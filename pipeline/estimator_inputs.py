"""What a user gives an estimator, checked and as numbers; a ValueError names the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pipeline.tasks.shapes import Preparation


def prepared(inputs: ArrayLike, preparation: Preparation, name: str) -> Tensor:
    """Return what a network takes: float32 [n, C, H, W] as in meta-training, or [n, D].

    Args:
        inputs: Images uint8 [n, H, W] or [n, H, W, C], or floating point from 0 to 1, also
            [n, C, H, W]; for a network that takes numbers, [n, D], or [n] where D is 1.
        preparation: Sizes and channel statistics that the network was trained with.
        name: Of the argument, for an error.

    Raises:
        ValueError: The shape or a value is not what the network takes.
    """
    array = _array(inputs, name)
    if array.dtype.kind not in "uif" or array.ndim < 1 or not len(array):
        raise ValueError(f"{name}: expected numbers [n, …], got {array.dtype} {list(array.shape)}")
    values = _finite(array, name)
    if not preparation.image_size:
        return _number_inputs(values, preparation.channels, name)
    side, channels = preparation.image_size, preparation.channels
    if array.dtype == np.uint8:
        values = values / 255
    elif float(values.min()) < 0 or float(values.max()) > 1:
        raise ValueError(f"{name}: expected uint8, or values from 0 to 1")
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim == 4 and values.shape[1:] == (side, side, channels):
        values = values.permute(0, 3, 1, 2)
    if values.shape[1:] != (channels, side, side):
        raise ValueError(
            f"{name}: expected images of {side} by {side} pixels with {channels} channel(s), got "
            f"shape {list(array.shape)}"
        )
    mean, std = (torch.tensor(v)[:, None, None] for v in (preparation.mean, preparation.std))
    return ((values - mean) / std).contiguous(memory_format=torch.channels_last)


def class_labels(labels: ArrayLike, num_examples: int, name: str) -> NDArray[Any]:
    """Return labels [n], whole numbers or text; ValueError for anything else."""
    array = _array(labels, name)
    if array.ndim != 1:
        raise ValueError(
            f"{name}: expected one label (a whole number or text) an example, got shape "
            f"{list(array.shape)}"
        )
    if len(array) != num_examples:
        raise ValueError(
            f"{name}: expected {num_examples} labels, one for each example, got {len(array)}"
        )
    values = array.tolist() if array.dtype.kind == "O" else ()
    strange = [value for value in values if not isinstance(value, (str, int, np.integer))]
    if strange or array.dtype.kind not in "biuOU":
        found = f"{strange[0]!r:.40}" if strange else str(array.dtype)
        raise ValueError(
            f"{name}: expected one label (a whole number or text) an example, got {found}"
        )
    return array


def class_numbers(
    labels: ArrayLike, num_examples: int, name: str
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the classes [N] among `labels`, sorted, and the number of each label in them [n]."""
    try:
        classes, numbers = np.unique(class_labels(labels, num_examples, name), return_inverse=True)
    except TypeError:
        raise ValueError(
            f"{name}: expected labels of one kind, got whole numbers and text"
        ) from None
    return classes, numbers.astype(np.int64)


def number_targets(
    targets: ArrayLike, num_examples: int, num_outputs: int, name: str
) -> NDArray[np.float32]:
    """Return targets float32 [n, D]; of shape [n] where D is 1, they become [n, 1]."""
    array = _array(targets, name)
    shape = array.shape
    if array.ndim == 1 and num_outputs == 1:
        array = array[:, None]
    if array.dtype.kind not in "uif" or array.shape != (num_examples, num_outputs):
        raise ValueError(
            f"{name}: expected target numbers {[num_examples, num_outputs]}, got {array.dtype} "
            f"{list(shape)}"
        )
    return _finite(array, name).numpy()


def _array(values: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"{name}: its entries differ in length; expected an array") from None


def _finite(array: NDArray[Any], name: str) -> Tensor:
    """Return float32; ValueError for what is not finite, or too large for that type."""
    with np.errstate(over="ignore"):
        values = torch.from_numpy(array.astype(np.float32))
    if not torch.isfinite(values).all():
        raise ValueError(f"{name}: has values that are not finite (NaN or infinite)")
    return values


def _number_inputs(values: Tensor, num_inputs: int, name: str) -> Tensor:
    if values.ndim == 1 and num_inputs == 1:
        return values[:, None]
    if values.shape[1:] != (num_inputs,):
        raise ValueError(
            f"{name}: expected {num_inputs} number(s) an example, got shape {list(values.shape)}"
        )
    return values
