"""Drawing few-shot episodes: N ways, K support examples and Q queries a way.

An episode is a function of its seed, of the data set and of its split alone: not of the group
that it is drawn in, and not of who draws it. A group costs one indexing operation on the
memory-mapped images, however many episodes it holds.

Shape letters: E episodes of a group, M images of an episode, H side of an image in pixels,
C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from algorithms.types import Encoder, Episode
from pipeline.config import Experiment
from pipeline.data.augment import crop_and_flip, quarter_turns
from pipeline.data.channel_statistics import GREY_SCALE, channel_statistics
from pipeline.data.image_classes import ClassSplit, ImageClasses
from pipeline.data.paths import data_root
from pipeline.data.registry import load_image_classes
from pipeline.data.splits import split_classes
from pipeline.errors import BadInputError
from pipeline.learners import is_joint
from pipeline.messages import Split
from pipeline.tasks.draws import (
    PADDING,
    EpisodeDraw,
    EpisodeSize,
    Integers,
    draw_episode,
    draw_minibatch,
)
from pipeline.tasks.family import Source
from pipeline.tasks.sinusoids import SinusoidSampler

ENCODED_AT_ONCE = 500
PHASES: dict[Split, str] = {"train": "meta-training", "val": "validation", "test": "the meta-test"}


class Sampler(Protocol):
    """What draws episodes."""

    @property
    def source(self) -> Source:
        """Return what is drawn from."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Return what is taken from each channel of an input; white, or ink, is 1."""

    @property
    def std(self) -> tuple[float, ...]:
        """Return what each channel is then divided by."""

    def profile(self, split: Split) -> dict[str, Any]:
        """Return what says which episodes are drawn in `split`."""

    def has(self, split: Split) -> bool:
        """Return whether there is anything to draw in `split`."""

    def class_names(self, split: Split) -> list[str]:
        """Return the names of the classes that `split` draws from; none of a regression."""

    def draw(self, split: Split, seeds: Sequence[int]) -> list[Episode]:
        """Return the episode of each seed."""

    def minibatches(self, size: int, seeds: Sequence[int]) -> list[Episode]:
        """Return for each seed queries of all meta-training classes; their labels last."""

    def encode(self, encoder: Encoder) -> bool:
        """Draw features in place of inputs from now on; return whether that is possible."""


class EpisodeSampler:
    """Draws episodes of image classification.

    Classes are drawn without replacement, and so are the images of a class: none is in support
    set and queries, or comes twice. Labels, and the order of support set and queries, are random.
    Images are float32 [·, C, H, H] in channels-last memory: ink in [0, 1], or for colours each
    channel less its mean, over its standard deviation, both over all meta-training images.

    `rotations` makes four classes of each: as it is, and turned by 90°, 180° and 270°. `augment`
    takes meta-training images from a random place in a black frame of 4 pixels around them, and
    mirrors half of them.
    """

    def __init__(
        self,
        source: ImageClasses,
        split: ClassSplit,
        sizes: Mapping[Split, EpisodeSize],
        device: torch.device | str = "cpu",
        *,
        rotations: bool = False,
        augment: bool = False,
    ) -> None:
        """Take the data set and its split; BadInputError for an option that does not fit it."""
        if augment and source.channels == 1:
            raise BadInputError(
                f"episodes.augment=true: the images of {source.name} are not coloured; expected "
                "false"
            )
        self.source = source
        self._sizes = sizes
        self._device = torch.device(device)
        self._num_turns = 4 if rotations else 1
        self._augment = augment
        self._features: Tensor | None = None  # of all images, where they take their place
        numbers: dict[Split, Sequence[int]] = {
            "train": split.train,
            "val": split.val,
            "test": split.test,
        }
        self._classes = {part: _row_ranges(source, some) for part, some in numbers.items()}
        self._class_numbers = numbers
        grey = source.channels == 1
        self.mean, self.std = GREY_SCALE if grey else channel_statistics(source, split.train)
        self._shift = torch.tensor(self.mean, device=device) * 255
        self._scale = torch.tensor(self.std, device=device) * 255

    def profile(self, split: Split) -> dict[str, Any]:
        """Return the size of the episodes, the number of classes and what is done to images."""
        size = self._sizes[split]
        return {
            "num_ways": size.num_ways,
            "num_shots": size.num_shots,
            "num_queries": size.num_queries,
            "classes": self._num_classes(split),
            # A split in a file can change behind its name.
            "classes_sha256": sha256("\n".join(self.class_names(split)).encode()).hexdigest(),
            "rotations": self._num_turns > 1,
            "augment": self._augment and split == "train",
            "channel_mean": list(self.mean),
            "channel_std": list(self.std),
        }

    def check_minibatch(self, size: int) -> None:
        """Raise BadInputError if meta-training has fewer than `size` images."""
        classes = self._classes["train"]
        count = self._num_turns * int((classes[:, 1] - classes[:, 0]).sum())
        if size > count:
            raise BadInputError(
                f"task.batch_size={size}: {self.source.name} has {count} images for meta-training"
            )

    def check(self, split: Split) -> None:
        """Raise BadInputError if `split` has too few classes, or one of them too few images."""
        size, name = self._sizes[split], self.source.name
        ways, shots, queries = (
            self._setting(split, key) for key in ("num_ways", "num_shots", "num_queries")
        )
        num_classes = self._num_classes(split)
        if size.num_ways > num_classes:
            raise BadInputError(f"{ways}: {name} has {num_classes} classes for {PHASES[split]}")
        least = int(np.diff(self._classes[split]).min())
        wanted = size.num_shots + size.num_queries
        if wanted > least:
            raise BadInputError(
                f"{shots} and {queries}: {wanted} images a class; {name} has {least} of a class "
                f"for {PHASES[split]}"
            )

    def has(self, split: Split) -> bool:
        """Return whether the split has classes: one without validation classes is allowed."""
        return len(self._classes[split]) > 0

    def class_names(self, split: Split) -> list[str]:
        """Return the names of the split's classes, as they are before any is turned."""
        return [self.source.classes[number].name for number in self._class_numbers[split]]

    def draw(self, split: Split, seeds: Sequence[int]) -> list[Episode]:
        """Return the episode of each seed, on the device; see `check`, which goes before."""
        size, classes = self._sizes[split], self._classes[split]
        draws = [draw_episode(size, classes, self._num_turns, seed) for seed in seeds]
        images = self._images(draws, augment=self._augment and split == "train")
        labels = self._to_device(np.stack([draw.labels for draw in draws]))
        num_support = size.num_ways * size.num_shots
        return [
            Episode(
                support_x=x[:num_support],
                support_y=y[:num_support],
                query_x=x[num_support:],
                query_y=y[num_support:],
                num_ways=size.num_ways,
            )
            for x, y in zip(images, labels, strict=True)
        ]

    def encode(self, encoder: Encoder) -> bool:
        """Draw from now on the features of images, by `encoder` as it is, in place of images.

        Return whether that is possible: not with images that are turned or augmented.
        """
        if self._num_turns > 1 or self._augment:
            return False
        with torch.no_grad():
            pixels = (
                self._to_device(np.array(self.source.images[start : start + ENCODED_AT_ONCE]))
                for start in range(0, len(self.source.images), ENCODED_AT_ONCE)
            )
            parts = [encoder(self._prepared(some).permute(0, 3, 1, 2)) for some in pixels]
        self._features = torch.cat(parts)
        return True

    def minibatches(self, size: int, seeds: Sequence[int]) -> list[Episode]:
        """Return for each seed `size` images of all meta-training classes: queries alone.

        Labels are those of the classes, the same in every minibatch.
        """
        classes = self._classes["train"]
        draws = [draw_minibatch(size, classes, self._num_turns, seed) for seed in seeds]
        images = self._images(draws, augment=self._augment)
        labels = self._to_device(np.stack([draw.labels for draw in draws]))
        ways = self._num_classes("train")
        return [Episode(x[:0], y[:0], x, y, ways) for x, y in zip(images, labels, strict=True)]

    def _images(self, draws: Sequence[EpisodeDraw], augment: bool) -> Tensor:
        """Return the images of all episodes, float32 [E, M, C, H, H]."""
        rows = np.concatenate([draw.rows for draw in draws])
        if self._features is not None:
            features = self._features[rows]
            return features.view(len(draws), -1, *features.shape[1:])
        pixels = self._to_device(self.source.images[rows])
        if self._num_turns > 1:
            turns = np.concatenate([draw.turns for draw in draws])
            pixels = quarter_turns(pixels, self._to_device(turns))
        if augment:
            offsets = self._to_device(np.concatenate([draw.offsets for draw in draws]))
            flips = self._to_device(np.concatenate([draw.flips for draw in draws]))
            pixels = crop_and_flip(pixels, offsets, flips, PADDING)
        values = self._prepared(pixels)
        return values.view(len(draws), -1, *values.shape[1:]).permute(0, 1, 4, 2, 3)

    def _prepared(self, pixels: Tensor) -> Tensor:
        """Return uint8 [B, H, H] or [B, H, H, 3], normalised, as float32 [B, H, H, C]."""
        channels_last = pixels.unsqueeze(-1) if self.source.channels == 1 else pixels
        return channels_last.float().sub_(self._shift).div_(self._scale)

    def _to_device(self, array: np.ndarray[Any, Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _setting(self, split: Split, key: str) -> str:
        """Return `key` of the section `episodes` that rules `split`, with its value."""
        value = getattr(self._sizes[split], key)
        is_own = split == "train" and value != getattr(self._sizes["test"], key)
        return f"episodes.{'train_' if is_own else ''}{key}={value}"

    def _num_classes(self, split: Split) -> int:
        return self._num_turns * len(self._classes[split])


def make_sampler(experiment: Experiment, device: torch.device) -> Sampler:
    """Return the sampler of the episodes that `experiment` describes.

    BadInputError if the data set is not there or has too little for what the keys ask.
    """
    config = experiment.episodes
    test = EpisodeSize(config.num_ways, config.num_shots, config.num_queries)
    train = EpisodeSize(
        config.train_num_ways or test.num_ways,
        config.train_num_shots or test.num_shots,
        config.train_num_queries or test.num_queries,
    )
    sizes: dict[Split, EpisodeSize] = {"train": train, "val": test, "test": test}
    if experiment.task.kind == "sinusoids":
        return SinusoidSampler(sizes, device)
    dataset = load_image_classes(experiment.data.name)
    split = split_classes(dataset, config.split, experiment.seed, data_root())
    sampler = EpisodeSampler(
        dataset, split, sizes, device, rotations=config.rotations, augment=config.augment
    )
    for part in PHASES:
        if part != "val" or sampler.has("val"):
            sampler.check(part)
    if is_joint(experiment):
        sampler.check_minibatch(experiment.task.batch_size)
    return sampler


def _row_ranges(source: ImageClasses, numbers: Sequence[int]) -> Integers:
    """Return the first row and the end of each class: [·, 2]."""
    ranges = [(source.classes[n].rows.start, source.classes[n].rows.stop) for n in numbers]
    return np.array(ranges, dtype=np.int64).reshape(-1, 2)
