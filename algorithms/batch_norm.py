"""Batch-norm statistics for judging an adapted model on data it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from algorithms.parameters import capture_buffers, restore_buffers


@contextmanager
def statistics_from(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[None]:
    """Within the block, batch-norm uses the statistics of `batches`; afterwards its own again.

    Running averages lag behind parameters that moved within a hundred steps, and they describe
    augmented inputs where the model is then judged on plain ones. So they are estimated anew at
    the final parameters, from training inputs: each layer's mean over `batches` of mean and
    variance. Nothing of the data that the model is judged on enters (not transductive). A model
    without batch-norm is left alone.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        yield
        return
    buffers, momenta = capture_buffers(model), [norm.momentum for norm in norms]
    was_training = model.training
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
        model.train()
        with torch.no_grad():
            for inputs in batches:
                model(inputs)
        model.train(was_training)
        yield
    finally:
        model.train(was_training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        restore_buffers(model, buffers)
