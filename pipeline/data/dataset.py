"""What every data set class offers to loading, fetching and listing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.data.alphabets import SIDE, AlphabetSet
from pipeline.data.archives import MAX_ARCHIVE_BYTES
from pipeline.data.image_classes import ImageClasses
from pipeline.errors import BadInputError


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a data set is decoded from."""

    path: str  # under the data root
    url: str  # of its folder on the official server
    md5: str  # of the official file, which is published with no other hash
    repacked_sha256: str  # of a copy with the same content in another packing
    max_bytes: int = MAX_ARCHIVE_BYTES  # more than that is not it

    @property
    def name(self) -> str:
        """The file's name, here and on the server."""
        return self.path.rpartition("/")[2]


class Dataset(ABC):
    """A data set of alphabets or of other classes, decoded from `files` under a data root."""

    name: ClassVar[str]
    licence: ClassVar[str]
    side: ClassVar[int] = SIDE  # height and width of an image, in pixels
    channels: ClassVar[int] = 1
    files: ClassVar[tuple[SourceFile, ...]]  # none: it is made from what is installed

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def identity(self) -> str:
        """Return what the decoded content depends on; BadInputError if a file is missing."""

    @abstractmethod
    def decode(self) -> AlphabetSet | ImageClasses:
        """Return the data set, read from its files; BadInputError if they do not hold it."""

    @classmethod
    @abstractmethod
    def check(cls, path: Path, file: SourceFile) -> str:
        """Return how `path` was found to be `file`; BadInputError if its content is not that."""

    @classmethod
    def paths(cls, root: Path) -> list[Path]:
        """Return the files under the data root that it is decoded from."""
        return [root / file.path for file in cls.files]

    @classmethod
    def verify(cls, root: Path) -> None:
        """Check all files; BadInputError says what keeps them from use, and what mends that."""
        for file in cls.files:
            path = cls.locate(root, file)
            try:
                cls.check(path, file)
            except BadInputError as error:
                raise BadInputError(f"{error}; {cls.replaced_with()}") from None
        cls(root).identity()

    @classmethod
    def how(cls) -> str:
        """Return how to get it."""
        if not cls.files:
            return "comes with outerloop"
        return f"outerloop data fetch {cls.name} [--from DIR]"

    @classmethod
    def locate(cls, root: Path, file: SourceFile) -> Path:
        """Return where `file` lies under the data root; BadInputError says how to get it."""
        path = root / file.path
        if path.is_file():
            return path
        cls.check_root(root)
        if (root / file.name).is_file():
            raise BadInputError(
                f"{path}: not found, but {root / file.name} is there; put it in its place with "
                f"`outerloop data fetch {cls.name} --from {root}`"
            )
        raise BadInputError(
            f"{path}: not found; get it with `outerloop data fetch {cls.name}` (from a folder "
            f"with --from DIR), or set OUTERLOOP_DATA to the folder that holds {_folder(file)}/"
        )

    @classmethod
    def replaced_with(cls) -> str:
        """Return what to do about a file that is there and is not what it should be."""
        return f"`outerloop data fetch {cls.name}` replaces it"

    @classmethod
    def check_root(cls, root: Path) -> None:
        """Raise BadInputError if `root` is not the data root but this data set's folder in it."""
        if any(root.name == _folder(file) and (root / file.name).is_file() for file in cls.files):
            raise BadInputError(
                f"{root}: is the folder of {cls.name} itself; set OUTERLOOP_DATA to the folder "
                f"that holds it: OUTERLOOP_DATA={root.parent}"
            )


def _folder(file: SourceFile) -> str:
    """Return the folder in the data root that `file` lies in."""
    return file.path.partition("/")[0]
