"""Which of the whole image data sets are there, without decoding a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.image_sets import BUILT_IN, FOLDERS, PARTS
from pipeline.data.pictures import check_parquet
from pipeline.errors import BadInputError


@dataclass(frozen=True, slots=True)
class ImageSetRow:
    """What `outerloop data list` says of a data set that can be a task."""

    name: str
    present: bool
    where: str  # the folder in which it is looked for
    num_images: int  # of all its parts; 0 where that is not known
    num_classes: int
    size_bytes: int
    problem: str  # why it cannot be used, and how to mend that; empty if it can


def list_image_sets(root: Path) -> list[ImageSetRow]:
    """Return a row for each data set of `task.kind=datasets` that has files, by name."""
    return [_row(name, root / folder) for name, folder in sorted(FOLDERS.items())]


def built_in_sets() -> str:
    """Return the names of those that need no files."""
    return " and ".join(BUILT_IN)


def _row(name: str, folder: Path) -> ImageSetRow:
    paths = [path for part in PARTS if (path := folder / f"{part}.parquet").is_file()]
    size = sum(path.stat().st_size for path in paths)
    if not paths:
        problem = f"not there; put {folder / 'train.parquet'} there, or set OUTERLOOP_DATA"
        return ImageSetRow(name, False, str(folder), 0, 0, 0, problem)
    try:
        names = pa.concat_arrays([_class_names(path) for path in paths])
    except BadInputError as error:
        return ImageSetRow(name, False, str(folder), 0, 0, size, f"{error}; put a whole one there")
    num_classes = len(pc.unique(names))
    return ImageSetRow(name, True, str(folder), len(names), num_classes, size, "")


def _class_names(path: Path) -> pa.Array:
    check_parquet(path)
    try:
        return pq.read_table(path, columns=["class_name"])["class_name"].combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise BadInputError(f"{path}: is damaged ({str(error).splitlines()[0]})") from None
