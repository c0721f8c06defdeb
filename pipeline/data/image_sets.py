"""Whole image data sets, each one task: found in the data folder, brought to one size and colour.

Every picture becomes `side` by `side` pixels in three channels: grey is repeated in each, and
another size is resampled bilinearly with antialiasing, its proportions not kept. Where a data set
comes without a test part, a fifth of each class is held out, the same for every seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.alphabets import Images
from pipeline.data.cache import cached
from pipeline.data.image_classes import ImageClasses, image_classes
from pipeline.data.paths import cache_root, data_root
from pipeline.data.pictures import (
    Picture,
    check_parquet,
    class_folders,
    decode_stretched,
    file_picture,
    listing_digest,
    parquet_pictures,
    stretch,
)
from pipeline.data.registry import load_dataset
from pipeline.errors import BadInputError
from pipeline.files import sha256_file
from pipeline.seeding import numpy_generator

CHANNELS = 3
DECODER_VERSION = 1
# In the data folder, as `<folder>/train.parquet` and `<folder>/test.parquet`.
FOLDERS = {
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "fashion-mnist": "fashion_mnist",
    "gtsrb": "gtsrb",
    "mnist": "mnist",
    "notmnist": "notmnist",
    "quickdraw8": "quickdraw8",
    "usps": "usps",
}
BUILT_IN = ("digits", "glyphs")
PARTS = ("train", "test")
HELD_OUT_SHARE = 0.2

Rows = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Some of the images of a data set: `images[rows[i]]` is of class `labels[i]`."""

    images: Images  # [M, side, side, 3], memory-mapped
    rows: Rows
    labels: Rows


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """A data set as a task: what to train on, what to test on."""

    name: str
    class_names: tuple[str, ...]
    train: Examples
    test: Examples
    digest: str


def known_image_sets() -> list[str]:
    """Return the names of the data sets that can be tasks; `folder:PATH` is one too."""
    return sorted([*FOLDERS, *BUILT_IN])


def load_image_set(name: str, side: int) -> ImageSet:
    """Return the data set, memory-mapped; decoded and cached first where it is not yet.

    It is read and checked once in a process.

    Args:
        name: One of `known_image_sets`, or `folder:PATH`: a folder for each class, with pictures.
        side: Height and width, in pixels, that its pictures are brought to.

    Raises:
        BadInputError: It is unknown, or its files are missing or damaged.
    """
    return _load(name, side, data_root(), cache_root())


@lru_cache(maxsize=64)
def _load(name: str, side: int, root: Path, cache: Path) -> ImageSet:
    if name in BUILT_IN:
        return _divided(name, _built_in(name, side))
    if name.startswith("folder:"):
        return _divided(name, _folder(Path(name.removeprefix("folder:")).expanduser(), side, cache))
    if name not in FOLDERS:
        known = ", ".join([*known_image_sets(), "folder:PATH"])
        raise BadInputError(f"data set '{name}': unknown; known: {known}")
    folder = root / FOLDERS[name]
    found = [folder / f"{part}.parquet" for part in PARTS]
    present = [path for path in found if path.is_file()]
    if not present:
        raise BadInputError(
            f"{found[0]}: not found; put the Parquet files of {name} there (columns image, label, "
            "class_name), or set OUTERLOOP_DATA to the folder that holds it"
        )
    parts = [_parquet(name, path, side, cache) for path in present]
    return _divided(name, parts[0]) if len(parts) == 1 else _joined(name, *parts)


def _parquet(name: str, path: Path, side: int, cache: Path) -> ImageClasses:
    check_parquet(path)
    identity = f"image set {DECODER_VERSION} {side} {sha256_file(path)}"
    return _cached(cache, f"{name}-{path.stem}", identity, parquet_pictures(path), side)


def _folder(folder: Path, side: int, cache: Path) -> ImageClasses:
    files = class_folders(folder)
    listing = listing_digest(path for paths in files.values() for path in paths)
    pictures = (file_picture(path, name) for name, paths in files.items() for path in paths)
    identity = f"image folder {DECODER_VERSION} {side} {listing}"
    return _cached(cache, "folder", identity, pictures, side)


def _built_in(name: str, side: int) -> ImageClasses:
    if name == "digits":
        from sklearn.datasets import load_digits  # MLflow depends on it; imported late: it is slow

        digits = load_digits()
        pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
        labelled = zip(map(str, digits.target), pixels, strict=True)
        groups: dict[str, list[Images]] = {}
        for label, image in sorted(labelled, key=lambda pair: pair[0]):
            groups.setdefault(label, []).append(image)
    else:
        glyphs = load_dataset(name)
        groups = {
            f"{alphabet.name}/{number:02}": list(glyphs.images[rows.start : rows.stop])
            for alphabet in glyphs.alphabets
            for number, rows in enumerate(alphabet.characters, start=1)
        }
    images = [stretch(image, side) for group in groups.values() for image in group]
    sizes = [(label, len(group)) for label, group in groups.items()]
    return image_classes(
        name, np.stack(images), sizes, "comes with what is installed", "see its source"
    )


def _cached(
    cache: Path, name: str, identity: str, pictures: Iterator[Picture], side: int
) -> ImageClasses:
    def decode() -> ImageClasses:
        groups: dict[str, list[Images]] = {}
        for picture in pictures:
            groups.setdefault(picture.class_name, []).append(decode_stretched(picture, side))
        if not groups:
            raise BadInputError(f"data set '{name}': has no pictures")
        pixels = np.stack([image for _, group in sorted(groups.items()) for image in group])
        sizes = [(label, len(group)) for label, group in sorted(groups.items())]
        return image_classes(name, pixels, sizes, name, "as its source states")

    found = cached(cache, name, identity, decode)
    assert isinstance(found, ImageClasses)  # what decode returns
    return found


def _joined(name: str, train: ImageClasses, test: ImageClasses) -> ImageSet:
    names = tuple(c.name for c in train.classes)
    if names != tuple(c.name for c in test.classes):
        raise BadInputError(
            f"{test.name}: its classes are not those of {train.name}; expected the same names"
        )
    return ImageSet(name, names, _all(train), _all(test), f"{train.digest} {test.digest}")


def _all(found: ImageClasses) -> Examples:
    sizes = [len(c.rows) for c in found.classes]
    return Examples(found.images, np.arange(sum(sizes)), np.repeat(np.arange(len(sizes)), sizes))


def _divided(name: str, found: ImageClasses) -> ImageSet:
    """Hold a fifth of each class out, one image at least; BadInputError if a class has but one."""
    kept: dict[str, list[Rows]] = {"train": [], "test": []}
    labels: dict[str, list[Rows]] = {"train": [], "test": []}
    for number, one in enumerate(found.classes):
        if len(one.rows) < 2:
            raise BadInputError(
                f"data set '{name}': class '{one.name}' has {len(one.rows)} picture(s); expected "
                "2 at least, one of them to be held out"
            )
        rows = numpy_generator(0, "held out", found.name, one.name).permutation(one.rows)
        num_test = max(1, round(HELD_OUT_SHARE * len(rows)))
        for part, chosen in (("test", rows[:num_test]), ("train", rows[num_test:])):
            kept[part].append(np.sort(chosen))
            labels[part].append(np.full(len(chosen), number))
    parts = {
        part: Examples(found.images, np.concatenate(kept[part]), np.concatenate(labels[part]))
        for part in PARTS
    }
    names = tuple(one.name for one in found.classes)
    return ImageSet(name, names, parts["train"], parts["test"], found.digest)
