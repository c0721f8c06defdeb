"""A folder of one's own as a data set: one folder a class, pictures of one size in each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.data.dataset import Dataset, SourceFile
from pipeline.data.image_classes import ImageClasses
from pipeline.data.pictures import (
    Picture,
    class_folders,
    decode_classes,
    file_picture,
    listing_digest,
    size_of,
)
from pipeline.errors import BadInputError

PREFIX = "folder:"
DECODER_VERSION = 2


class ImageFolder(Dataset):
    """The folders inside `root` as classes; every picture as large as the first, and square."""

    name = "folder"
    licence = "the user's own"
    files = ()
    channels = 3

    def __init__(self, root: Path) -> None:
        """Look at the first picture; BadInputError if `root` is no folder of classes."""
        super().__init__(root)
        self._files = class_folders(root)
        first = next(self._pictures())
        width, height = size_of(first)
        if width != height:
            raise BadInputError(
                f"{first.where}: {width} by {height} pixels; to train on a folder its pictures "
                "must be square and all of one size: crop and resize them first"
            )
        self.image_size = width

    def identity(self) -> str:
        """Return a hash of names, sizes and times of the pictures."""
        files = [path for paths in self._files.values() for path in paths]
        return f"folder {DECODER_VERSION} {self.root} {listing_digest(files)}"

    def decode(self) -> ImageClasses:
        """Return all pictures; BadInputError names one of another size."""
        return decode_classes(
            self.name,
            self._pictures(),
            self.image_size,
            source=str(self.root),
            licence=self.licence,
        )

    @classmethod
    def check(cls, path: Path, file: SourceFile) -> str:
        """Refuse: no file of it is fetched."""
        raise BadInputError(f"{path}: a folder of one's own is not fetched")

    def _pictures(self) -> Iterator[Picture]:
        for name, paths in self._files.items():
            yield from (file_picture(path, name) for path in paths)
