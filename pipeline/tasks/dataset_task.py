"""Classification of a whole image data set, for thousands of inner steps.

Shape letters: B examples of a minibatch, C classes of the data set, S side of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from algorithms.batch_norm import statistics_from
from pipeline.data.image_sets import Examples, ImageSet, Rows
from pipeline.tasks.minibatches import MinibatchSchedule

EVALUATION_BATCH = 500
STATISTICS_BATCHES = 4  # of training images, for batch-norm's statistics


class DatasetTask:
    """Classification of one data set; implements `algorithms.types.Task`.

    Images stay in their memory-mapped file, and a minibatch is gathered from it in one indexing
    operation; the model gets pixels between −1 and 1, [B, 3, S, S] in channels-last memory. Of its
    outputs the first C are the classes: the others, which data sets with more classes need, take
    no part. There is nothing to save: minibatches are a function of `seed` and of the step.
    """

    def __init__(self, data: ImageSet, *, seed: int, batch_size: int, device: torch.device) -> None:
        self._data = data
        self._device = device
        self._num_classes = len(data.class_names)
        # Indices choose rows of a file: they stay on the CPU.
        self._schedule = MinibatchSchedule(
            seed, len(data.train.rows), batch_size, augment=False, device=torch.device("cpu")
        )
        self._error = torch.zeros((), device=device)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the mean cross-entropy (shape [], float32) on the minibatch of `step`."""
        indices, _ = self._schedule(step)
        inputs, labels = self._gather(self._data.train, indices.numpy())
        logits = self._logits(model, inputs)
        self._error = (logits.detach().argmax(dim=1) != labels).float().mean()
        return cross_entropy(logits, labels)

    def training_metrics(self) -> dict[str, Tensor]:
        """Return `error`: the share of the last minibatch that was misclassified."""
        return {"error": self._error}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return accuracy, error and loss on all test images.

        Batch-norm takes the statistics of training images. The model is left as it was found.
        """
        was_training = model.training
        losses, wrong, count = 0.0, 0, len(self._data.test.rows)
        try:
            with statistics_from(model, self._training_batches()), torch.no_grad():
                model.eval()
                for start in range(0, count, EVALUATION_BATCH):
                    chosen = np.arange(start, min(start + EVALUATION_BATCH, count))
                    inputs, labels = self._gather(self._data.test, chosen)
                    logits = self._logits(model, inputs)
                    losses += float(cross_entropy(logits, labels, reduction="sum"))
                    wrong += int((logits.argmax(dim=1) != labels).sum())
        finally:
            model.train(was_training)
        return {"accuracy": 1 - wrong / count, "error": wrong / count, "loss": losses / count}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the step alone says where the task stands."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    def _logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        outputs: Tensor = model(inputs)
        return outputs[:, : self._num_classes].float()

    def _gather(self, examples: Examples, chosen: Rows) -> tuple[Tensor, Tensor]:
        """Return inputs [B, 3, S, S] and labels [B] of some of the examples, on the device."""
        pixels = torch.from_numpy(examples.images[examples.rows[chosen]])
        labels = torch.from_numpy(examples.labels[chosen])
        if self._device.type == "cuda":
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
            labels = labels.pin_memory().to(self._device, non_blocking=True)
        # Pixels lie channel beside channel in the file: that is channels-last already.
        inputs = pixels.permute(0, 3, 1, 2).float()
        return inputs.mul_(2 / 255).sub_(1), labels

    def _training_batches(self) -> Iterator[Tensor]:
        count = len(self._data.train.rows)
        spread = np.linspace(0, count - 1, min(count, STATISTICS_BATCHES * EVALUATION_BATCH))
        order = spread.round().astype(np.int64)
        for number in range(STATISTICS_BATCHES):
            # Every n-th: examples lie class after class, and a batch must hold them all.
            yield self._gather(self._data.train, order[number::STATISTICS_BATCHES])[0]
