"""Which examples, and which augmentation of each, an inner step trains on."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.data.augment import draw_affine
from pipeline.seeding import torch_generator

MIN_BLOCK_STEPS = 64


class MinibatchSchedule:
    """The minibatches of a task, as a function of its seed and of the inner step alone.

    They are drawn in blocks of at least 64 steps: whole passes over the examples, each in an
    order of its own, cut into minibatches. A block is drawn on the CPU, so it is the same
    whatever the device, and goes to the device in one copy. Any step can be asked for at any
    time; steps in order are fast.
    """

    def __init__(
        self, seed: int, num_examples: int, batch_size: int, augment: bool, device: torch.device
    ) -> None:
        self._seed = seed
        self._num_examples = num_examples
        self._batch_size = batch_size
        self._augment = augment
        self._device = device
        self._num_passes = -(-MIN_BLOCK_STEPS * batch_size // num_examples)
        self._block_steps = self._num_passes * num_examples // batch_size
        self._block = -1  # number of the block that is at hand
        self._indices = torch.empty(0)
        self._matrices = torch.empty(0)

    def __call__(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return example indices [B] and, with augmentation, affine matrices [B, 2, 3]."""
        block, place = divmod(step, self._block_steps)
        if block != self._block:
            self._draw(block)
        return self._indices[place], self._matrices[place] if self._augment else None

    def _draw(self, block: int) -> None:
        generator = torch_generator(self._seed, "minibatches", block)
        passes = [
            torch.randperm(self._num_examples, generator=generator) for _ in range(self._num_passes)
        ]
        num_drawn = self._block_steps * self._batch_size
        shape = (self._block_steps, self._batch_size)
        self._indices = self._to_device(torch.cat(passes)[:num_drawn].view(shape))
        if self._augment:
            matrices = draw_affine(num_drawn, generator).view(*shape, 2, 3)
            self._matrices = self._to_device(matrices)
        self._block = block

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)
