"""Checks of support sets and queries that come from outside; each error names the argument."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor


def check_support(
    support_x: Tensor,
    support_y: Tensor,
    num_ways: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> int:
    """Return N, the number of classes of a support set that comes from outside.

    Each example is of `shape`, if given; N is `num_ways`, if given.

    Raises:
        ValueError: names `support_x` or `support_y`, and what was expected of it.
    """
    check_examples("support_x", support_x, shape)
    if support_y.shape != (len(support_x),):
        raise ValueError(
            f"support_y: expected {len(support_x)} labels, one for each example, got shape "
            f"{_shape(support_y)}"
        )
    if support_y.dtype is not torch.int64:
        raise ValueError(
            f"support_y: expected integer labels of type int64, got {support_y.dtype}; whole "
            "numbers of another type become such by .long()"
        )
    present = torch.unique(support_y).tolist()  # sorted; its size does not depend on the labels
    lowest, highest = present[0], present[-1]
    if lowest < 0:
        raise ValueError(f"support_y: labels count from 0, got {lowest}")
    if num_ways is not None and highest >= num_ways:
        raise ValueError(f"support_y: label {highest}, but there are {num_ways} ways")
    expected: int = highest + 1 if num_ways is None else num_ways
    if len(present) < expected:
        known = set(present)
        absent = islice((label for label in range(expected) if label not in known), 10)
        raise ValueError(
            f"support_y: no example of class {', '.join(map(str, absent))}; each of the "
            f"{expected} classes needs one at least"
        )
    return expected


def check_targets(
    support_x: Tensor, support_y: Tensor, num_targets: int, shape: tuple[int, ...] | None = None
) -> None:
    """Refuse a regression's support set from outside that cannot be learned from.

    Raises:
        ValueError: names `support_x` or `support_y`, and what was expected of it.
    """
    check_examples("support_x", support_x, shape)
    expected = (len(support_x), num_targets)
    if support_y.shape != expected:
        raise ValueError(
            f"support_y: expected targets {list(expected)}, got shape {_shape(support_y)}"
        )
    if not support_y.is_floating_point():
        raise ValueError(f"support_y: expected floating-point targets, got {support_y.dtype}")
    if not torch.isfinite(support_y).all():
        raise ValueError("support_y: has values that are not finite (NaN or infinite)")


def check_examples(name: str, inputs: Tensor, shape: tuple[int, ...] | None = None) -> None:
    """Refuse inputs from outside that are no batch of finite examples, each of `shape` if given.

    Raises:
        ValueError: begins with `name`, and says what was expected.
    """
    if shape is not None and inputs.shape[1:] != shape:
        sizes = ", ".join(map(str, ("examples", *shape)))
        raise ValueError(f"{name}: expected shape [{sizes}], got {_shape(inputs)}")
    if inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError(f"{name}: expected examples [number, …], got shape {_shape(inputs)}")
    if not torch.isfinite(inputs).all():
        raise ValueError(f"{name}: has values that are not finite (NaN or infinite)")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


@contextmanager
def naming_a_single_example(name: str, inputs: Tensor) -> Iterator[None]:
    """Within the block, torch's refusal to normalise `inputs` [1, …] names what they are."""
    try:
        yield
    except ValueError as error:
        if len(inputs) != 1 or "per channel" not in str(error):
            raise
        raise ValueError(
            f"{name}: one example is too few for a batch-norm to take statistics of; expected two "
            "at least (or, of queries, a learner that is not transductive)"
        ) from None
