"""What a data set of image classes is, once decoded: what few-shot episodes are drawn from.

Shape letters: M images, H and W their height and width in pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.data.alphabets import AlphabetSet, Images
from pipeline.errors import BadInputError


@dataclass(frozen=True, slots=True)
class ImageClass:
    """A named class, given by the rows of its images."""

    name: str
    rows: range


@dataclass(frozen=True, slots=True)
class ClassSplit:
    """Which classes are for which phase, by number; no class is in two of them."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ImageClasses:
    """A decoded data set of classes.

    `images` is read-only uint8, [M, H, W] of one channel (ink or light 255) or [M, H, W, 3] of
    red, green and blue.
    """

    name: str
    images: Images
    classes: tuple[ImageClass, ...]
    source: str  # which files, and how they were checked
    licence: str
    digest: str  # sha256 of classes, splits and images
    splits: Mapping[str, ClassSplit] = field(default_factory=dict)  # those that come with it

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 3 if self.images.ndim == 4 else 1

    def with_split(self, name: str, split: ClassSplit) -> ImageClasses:
        """Return the same data set with one more split that comes with it."""
        sizes = [(c.name, len(c.rows)) for c in self.classes]
        splits = {**self.splits, name: split}
        return image_classes(self.name, self.images, sizes, self.source, self.licence, splits)

    def header(self) -> dict[str, Any]:
        """Return, for a cache, all but the images."""
        return {
            "name": self.name,
            "shape": list(self.images.shape[1:]),
            "classes": [(c.name, len(c.rows)) for c in self.classes],
            "splits": _plain(self.splits),
            "source": self.source,
            "licence": self.licence,
            "digest": self.digest,
        }

    @classmethod
    def restore(cls, header: Mapping[str, Any], pixels: Images) -> ImageClasses:
        """Return what `header` describes, on the flat `pixels`; ValueError if they do not fit."""
        images = pixels.reshape(-1, *header["shape"])
        splits = {
            name: ClassSplit(**{part: tuple(numbers) for part, numbers in split.items()})
            for name, split in header["splits"].items()
        }
        restored = image_classes(
            header["name"], images, header["classes"], header["source"], header["licence"], splits
        )
        if restored.digest != header["digest"]:
            raise ValueError("the images are not those that were stored")
        return restored


def image_classes(
    name: str,
    images: Images,
    sizes: Iterable[tuple[str, int]],
    source: str,
    licence: str,
    splits: Mapping[str, ClassSplit] | None = None,
) -> ImageClasses:
    """Return the data set whose classes, each with its number of images, lie one after another."""
    classes, start = [], 0
    for class_name, num_images in sizes:
        classes.append(ImageClass(class_name, range(start, start + num_images)))
        start += num_images
    splits = splits or {}
    outline = json.dumps([[(c.name, len(c.rows)) for c in classes], _plain(splits), images.shape])
    digest = hashlib.sha256(outline.encode())
    digest.update(np.ascontiguousarray(images).data)
    return ImageClasses(
        name, images, tuple(classes), source, licence, digest.hexdigest(), dict(splits)
    )


def character_name(alphabet: str, number: int) -> str:
    """Return the name of an alphabet's character, counted from 1, as a class."""
    return f"{alphabet}/character{number:02}"


def characters_of(dataset: AlphabetSet) -> ImageClasses:
    """Return the characters of all alphabets as classes."""
    classes = [
        ImageClass(character_name(alphabet.name, number), rows)
        for alphabet in dataset.alphabets
        for number, rows in enumerate(alphabet.characters, start=1)
    ]
    return ImageClasses(
        dataset.name,
        dataset.images,
        tuple(classes),
        dataset.source,
        dataset.licence,
        dataset.digest,
    )


def split_by_names(
    parts: Mapping[str, Iterable[str]], classes: Iterable[str], where: str
) -> ClassSplit:
    """Return the split that gives class names of `train`, `val` and `test`.

    Each name is one of `classes`, and comes once in all; or BadInputError, beginning with
    `where`, names it.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    taken: dict[str, str] = {}
    found: dict[str, tuple[int, ...]] = {}
    for part in ("train", "val", "test"):
        names = list(parts.get(part, ()))
        for name in names:
            if name not in numbers:
                raise BadInputError(f"{where}: {part}: no class is named {name!r:.120}")
            if taken.get(name) == part:
                raise BadInputError(f"{where}: {part}: class {name!r:.120} comes twice")
            if name in taken:
                raise BadInputError(
                    f"{where}: class {name!r:.120} is in {taken[name]} and in {part}; expected "
                    "splits that share no class"
                )
            taken[name] = part
        found[part] = tuple(numbers[name] for name in names)
    return ClassSplit(**found)


def _plain(splits: Mapping[str, ClassSplit]) -> dict[str, dict[str, list[int]]]:
    return {
        name: {"train": list(s.train), "val": list(s.val), "test": list(s.test)}
        for name, s in sorted(splits.items())
    }
