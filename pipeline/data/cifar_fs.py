"""CIFAR-FS: the 100 classes of CIFAR-100, 600 images each, in 64, 16 and 20.

Krizhevsky (2009), "Learning multiple layers of features from tiny images"; split of Bertinetto et
al. (2019), arXiv:1805.08136. Found, in this order, in the folder `cifar100` of the data root as

- `train.parquet` and `test.parquet`, with `cifar_fs_splits.json` or without;
- `data/<class>/*.png` and `splits/bertinetto/{train,val,test}.txt`, the authors' own layout;
- `cifar-100-binary.tar.gz`, the official archive without pickles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pipeline.data import cifar_fs_classes
from pipeline.data.cifar_binary import MAX_BYTES, check_archive, read_archive
from pipeline.data.dataset import Dataset, SourceFile
from pipeline.data.image_classes import ClassSplit, ImageClasses, image_classes, split_by_names
from pipeline.data.pictures import (
    Picture,
    check_parquet,
    class_folders,
    decode_classes,
    file_picture,
    listing_digest,
    parquet_pictures,
)
from pipeline.data.splits import read_split
from pipeline.errors import BadInputError
from pipeline.files import sha256_file

FOLDER = "cifar100"
DECODER_VERSION = 1
CLASSES = sorted(cifar_fs_classes.TRAIN + cifar_fs_classes.VAL + cifar_fs_classes.TEST)


class CifarFS(Dataset):
    """CIFAR-100 as classes, in whichever layout it is found."""

    name = "cifar-fs"
    licence = "none stated (Krizhevsky, University of Toronto)"
    side = 32
    channels = 3
    files = (
        SourceFile(
            f"{FOLDER}/cifar-100-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
            repacked_sha256="",
            max_bytes=MAX_BYTES,
        ),
    )
    images_per_class: ClassVar[int] = 600

    @classmethod
    def paths(cls, root: Path) -> list[Path]:
        """Return the files of the layout that is there; of the archive if none is."""
        folder = root / FOLDER
        tables = [folder / "train.parquet", folder / "test.parquet"]
        if all(path.is_file() for path in tables):
            split = folder / "cifar_fs_splits.json"
            return [*tables, *([split] if split.is_file() else [])]
        if (folder / "data").is_dir():
            pictures = [p for files in class_folders(folder / "data").values() for p in files]
            return [*_split_files(folder), *pictures]
        return [root / file.path for file in cls.files]

    @classmethod
    def verify(cls, root: Path) -> None:
        """Check the layout that is there; pictures in it are read when it is decoded."""
        first = cls.paths(root)[0]
        if first.suffix == ".gz":
            super().verify(root)
            return
        for path in cls.paths(root):
            if path.suffix == ".parquet":
                check_parquet(path)
        cls(root)._split()

    def identity(self) -> str:
        """Return the hashes of the files, or of the list of many small ones."""
        paths = self.paths(self.root)
        if paths[0].suffix == ".txt":
            return f"cifar-fs {DECODER_VERSION} {listing_digest(paths)}"
        if paths[0].suffix == ".gz":
            paths = [self.locate(self.root, file) for file in self.files]
        return f"cifar-fs {DECODER_VERSION} {' '.join(sha256_file(path) for path in paths)}"

    def decode(self) -> ImageClasses:
        """Return all images, class by class; BadInputError if a class has not 600."""
        paths = self.paths(self.root)
        splits = {"standard": self._split()}
        if paths[0].suffix == ".gz":
            pixels = read_archive(paths[0], CLASSES)
            sizes = [(name, len(pixels) // len(CLASSES)) for name in CLASSES]
            source = f"{paths[0].name} ({self.check(paths[0], self.files[0])})"
            decoded = image_classes(self.name, pixels, sizes, source, self.licence, splits)
        else:
            named = paths[:2] if paths[0].suffix == ".parquet" else [self.root / FOLDER / "data"]
            decoded = decode_classes(
                self.name,
                self._pictures(),
                self.side,
                source=", ".join(f"{FOLDER}/{path.name}" for path in named),
                licence=self.licence,
                splits=splits,
                classes=CLASSES,
            )
        for found in decoded.classes:
            if len(found.rows) != self.images_per_class:
                raise BadInputError(
                    f"{self.root / FOLDER}: class {found.name} has {len(found.rows)} images; "
                    f"expected {self.images_per_class}"
                )
        return decoded

    @classmethod
    def check(cls, path: Path, file: SourceFile) -> str:
        """Say what the archive is known by: its official MD5, or its content."""
        with path.open("rb") as opened:
            md5 = hashlib.file_digest(
                opened, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
        if md5 == file.md5:
            return f"official by its MD5 {file.md5}"
        check_archive(path, CLASSES)
        return "accepted by its content: its hash is not the official one"

    def _pictures(self) -> Iterator[Picture]:
        paths = self.paths(self.root)
        if paths[0].suffix == ".parquet":
            for path in paths[:2]:
                yield from parquet_pictures(path)
        else:
            for name, files in class_folders(self.root / FOLDER / "data").items():
                yield from (file_picture(path, name) for path in files)

    def _split(self) -> ClassSplit:
        """Return the split that lies beside the images, or else the published one."""
        for path in self.paths(self.root):
            if path.suffix == ".json":
                return split_by_names(read_split(path), CLASSES, str(path))
        files = _split_files(self.root / FOLDER)
        if all(path.is_file() for path in files):
            parts = {path.stem: path.read_text(encoding="utf-8").split() for path in files}
            return split_by_names(parts, CLASSES, str(files[0].parent))
        published = {
            "train": cifar_fs_classes.TRAIN,
            "val": cifar_fs_classes.VAL,
            "test": cifar_fs_classes.TEST,
        }
        return split_by_names(published, CLASSES, self.name)


def _split_files(folder: Path) -> list[Path]:
    return [folder / "splits/bertinetto" / f"{part}.txt" for part in ("train", "val", "test")]
