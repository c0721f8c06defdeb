"""Classification of the characters of one alphabet: the task of the Leap-Omniglot experiment.

Shape letters: W ways (classes), D drawings of a character, S side of an image, B minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from algorithms.batch_norm import statistics_from
from pipeline.data.alphabets import Images
from pipeline.data.augment import apply_affine
from pipeline.tasks.minibatches import MinibatchSchedule

STATISTICS_BATCH = 512  # drawings that batch-norm statistics are taken over at once


class ClassificationTask:
    """W-way classification of drawings; implements `algorithms.types.Task`.

    The drawings lie on the device for the task's whole life, as float32 in [0, 1]. A model gets
    them as [B, 1, S, S] in channels-last memory and returns logits [B, W]. There is nothing to
    save: minibatches are a function of `seed` and of the step.
    """

    def __init__(
        self,
        train: Images,
        held_out: Images,
        *,
        seed: int,
        batch_size: int,
        augment: bool,
        device: torch.device,
    ) -> None:
        """Take uint8 drawings, [W, D, S, S] each: to train on and held out."""
        self._inputs, self._labels = _examples(train, device)
        self._held_out_inputs, self._held_out_labels = _examples(held_out, device)
        self._schedule = MinibatchSchedule(seed, len(self._labels), batch_size, augment, device)
        self._error = torch.zeros((), device=device)

    def minibatch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs [B, 1, S, S] and labels [B] of inner step `step`."""
        indices, matrices = self._schedule(step)
        inputs = self._inputs.index_select(0, indices)
        if matrices is not None:
            inputs = apply_affine(inputs, matrices)
        return _channels_last(inputs), self._labels.index_select(0, indices)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the mean cross-entropy (shape [], float32) on the minibatch of `step`."""
        inputs, labels = self.minibatch(step)
        logits = model(inputs).float()
        self._error = (logits.detach().argmax(dim=1) != labels).float().mean()
        return cross_entropy(logits, labels)

    def training_metrics(self) -> dict[str, Tensor]:
        """Return `error`: the share of the last minibatch that was misclassified."""
        return {"error": self._error}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return accuracy, error and loss on the held-out drawings, which are not augmented.

        Batch-norm takes the statistics of the training drawings, not augmented either. The
        model is left as it was found.
        """
        was_training = model.training
        try:
            with statistics_from(model, self._training_batches()), torch.no_grad():
                logits = model.eval()(_channels_last(self._held_out_inputs)).float()
                labels = self._held_out_labels
                loss = cross_entropy(logits, labels)
                accuracy = (logits.argmax(dim=1) == labels).double().mean()
        finally:
            model.train(was_training)
        return {
            "accuracy": float(accuracy),
            "error": 1.0 - float(accuracy),
            "loss": float(loss),
        }

    def _training_batches(self) -> Iterator[Tensor]:
        for inputs in torch.split(self._inputs, STATISTICS_BATCH):
            yield _channels_last(inputs)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the step alone says where the task stands."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


def _examples(drawings: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs [W · D, 1, S, S] in [0, 1] and labels [W · D] on the device."""
    ways, num_drawings, *sides = drawings.shape
    pixels = torch.from_numpy(np.ascontiguousarray(drawings)).to(device)
    inputs = pixels.reshape(ways * num_drawings, 1, *sides).float().div_(255)
    labels = torch.arange(ways, device=device).repeat_interleave(num_drawings)
    return inputs, labels


def _channels_last(images: Tensor) -> Tensor:
    """Return `images` [B, 1, S, S] with the strides of channels-last, without a copy.

    With one channel both layouts are the same bytes, and `contiguous` would keep the strides
    that make convolutions take the slower path.
    """
    batch, _, height, width = images.shape
    return images.view(batch, height, width, 1).permute(0, 3, 1, 2)
