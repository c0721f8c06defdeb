"""miniImageNet: 100 classes of ImageNet, 600 images of 84 by 84 pixels each, in 64, 16 and 20.

Vinyals et al. (2016), arXiv:1606.04080; split of Ravi and Larochelle (2017). It cannot be
downloaded freely. Found in the folder `miniimagenet` of the data root as

- `train.parquet`, `val.parquet` and `test.parquet`, columns image, label and class_name;
- `images/` and `train.csv`, `val.csv`, `test.csv`, columns filename and label.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.dataset import Dataset, SourceFile
from pipeline.data.image_classes import ImageClasses, split_by_names
from pipeline.data.pictures import (
    Picture,
    check_parquet,
    decode_classes,
    file_picture,
    listing_digest,
    parquet_pictures,
)
from pipeline.errors import BadInputError

FOLDER = "miniimagenet"
PARTS = ("train", "val", "test")
DECODER_VERSION = 1


class MiniImageNet(Dataset):
    """miniImageNet, in whichever layout it is found."""

    name = "miniimagenet"
    licence = "ImageNet's terms: research only, no redistribution"
    side = 84
    channels = 3
    files = ()

    @classmethod
    def paths(cls, root: Path) -> list[Path]:
        """Return the three files that say which images there are."""
        folder = root / FOLDER
        tables = [folder / f"{part}.parquet" for part in PARTS]
        lists = [folder / f"{part}.csv" for part in PARTS]
        return lists if any(path.is_file() for path in lists) else tables

    @classmethod
    def how(cls) -> str:
        """Return how to get it."""
        return (
            "not to be had without ImageNet's terms; put images/ and train.csv, val.csv, test.csv "
            "(or .parquet files) into the folder miniimagenet of the data root"
        )

    @classmethod
    def verify(cls, root: Path) -> None:
        """Check the lists, or the tables' columns; pictures are read when it is decoded."""
        for path in cls.paths(root):
            if not path.is_file():
                raise BadInputError(f"{path}: not found; {cls.how()}")
            if path.suffix == ".parquet":
                check_parquet(path)
            else:
                _rows(path)

    def identity(self) -> str:
        """Return a hash of names, sizes and times of what is there."""
        self.verify(self.root)
        images = self.root / FOLDER / "images"
        pictures = sorted(images.iterdir()) if images.is_dir() else []
        paths = [*self.paths(self.root), *pictures]
        return f"{self.name} {DECODER_VERSION} {listing_digest(paths)}"

    def decode(self) -> ImageClasses:
        """Return all images with the split that their three files make."""
        classes: dict[str, list[str]] = {part: [] for part in PARTS}

        def pictures() -> Iterator[Picture]:
            for part, path in zip(PARTS, self.paths(self.root), strict=True):
                seen = set()
                for picture in _pictures(path):
                    if picture.class_name not in seen:
                        classes[part].append(picture.class_name)
                        seen.add(picture.class_name)
                    yield picture

        folder = self.root / FOLDER
        decoded = decode_classes(
            self.name, pictures(), self.side, source=str(folder.name), licence=self.licence
        )
        names = [c.name for c in decoded.classes]
        split = split_by_names(classes, names, str(folder))
        return decoded.with_split("standard", split)

    @classmethod
    def check(cls, path: Path, file: SourceFile) -> str:
        """Refuse: no file of it can be fetched."""
        raise BadInputError(f"{path}: {cls.how()}")


def _pictures(path: Path) -> Iterator[Picture]:
    if path.suffix == ".parquet":
        yield from parquet_pictures(path)
        return
    for filename, label in _rows(path):
        yield file_picture(path.parent / "images" / filename, label)


def _rows(path: Path) -> list[tuple[str, str]]:
    """Return file names and labels; BadInputError for another kind of file, or path outside."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"{path}: cannot be read as CSV ({error})") from None
    found = []
    for number, row in enumerate(rows, start=2):
        filename, label = row.get("filename"), row.get("label")
        if not filename or not label or Path(filename).name != filename:
            raise BadInputError(
                f"{path}: line {number}: expected columns filename (of a file in images/) and label"
            )
        found.append((filename, label))
    if not found:
        raise BadInputError(f"{path}: has no rows; expected columns filename and label")
    return found
