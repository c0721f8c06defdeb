"""Batch-norm statistics for judging an adapted model on data it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from algorithms.parameters import capture_buffers, restore_buffers


@contextmanager
def statistics_from(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[None]:
    """Within the block, batch-norm uses the statistics of `batches`; afterwards its own again.

    Running averages lag behind parameters that moved within a hundred steps, and they describe
    augmented inputs where the model is then judged on plain ones. So they are estimated anew at
    the final parameters, from training inputs; see `estimate_statistics`. Nothing of the data
    that the model is judged on enters (not transductive). A model without batch-norm is left
    alone.
    """
    if not has_running_statistics(model):
        yield
        return
    buffers, was_training = capture_buffers(model), model.training
    try:
        estimate_statistics(model, (partial(model, inputs) for inputs in batches))
        yield
    finally:
        model.train(was_training)
        restore_buffers(model, buffers)


def has_running_statistics(model: nn.Module) -> bool:
    """Return whether a batch-norm of `model` keeps running statistics."""
    return bool(_norms(model))


def estimate_statistics(model: nn.Module, passes: Iterable[Callable[[], object]]) -> None:
    """Replace each batch-norm's running statistics by the mean over `passes` of a batch's.

    Each pass is a call that runs the model, in training mode, on a batch of its own. The mode is
    left as it was; parameters do not change.

    Raises:
        ValueError: there are no `passes`, so nothing to take statistics of.
    """
    runs = iter(passes)
    first = next(runs, None)
    if first is None:
        raise ValueError("passes: expected at least one, to take batch-norm statistics of")
    norms, was_training = _norms(model), model.training
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
        model.train()
        with torch.no_grad():
            for run in chain((first,), runs):
                run()
    finally:
        model.train(was_training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
