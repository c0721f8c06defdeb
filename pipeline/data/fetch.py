"""Getting data sets, and saying which there are: `outerloop data fetch` and `data list`.

What is fetched gets its name only after the data set's own check (`Dataset.check`), by content and
by hash. The SHA-256 of every file is reported, so that two machines can compare what they have.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.dataset import Dataset, SourceFile
from pipeline.data.download import Progress, copy, download, publish
from pipeline.data.registry import FETCHED, fetched_class
from pipeline.errors import BadInputError, RunFailedError
from pipeline.files import sha256_file


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file of a data set that is now under the data root."""

    path: Path
    verdict: str  # official, a known copy, or accepted by its content
    sha256: str  # in hexadecimal
    was_there: bool  # it was there already, and nothing was transferred


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """What `outerloop data list` says about a data set."""

    name: str
    present: bool  # all of it, and whole
    where: str  # folder, or what it is made from
    size_bytes: int  # of the files that are there
    licence: str
    how: str  # how to get it
    problem: str  # why it is not present, and what mends that; empty if it is


def fetch(
    name: str,
    root: Path,
    from_dir: Path | None = None,
    url_base: str | None = None,
    progress: Progress = lambda _name, _done, _total: None,
) -> list[FetchedFile]:
    """Bring the files of data set `name` under `root`, each checked before it gets its name.

    Raises BadInputError for an unknown data set, a file that is not what it should be or a
    folder that cannot be written; RunFailedError for a disk that is full, or a download that does
    not come to its end, which the next call takes up.

    Args:
        name: Of the data set.
        root: Data root; made where it does not exist.
        from_dir: Folder to copy the files from, instead of downloading them.
        url_base: Folder on another server, e.g. a mirror; the official one if not given.
        progress: Called as bytes arrive.
    """
    dataset = fetched_class(name)
    if not dataset.files:
        raise BadInputError(f"data set '{name}': {dataset.how()}; there is nothing to fetch")
    if from_dir is not None and not from_dir.is_dir():
        raise BadInputError(f"--from {from_dir}: there is no such folder")
    dataset.check_root(root)
    try:
        return [_fetch_file(dataset, f, root, from_dir, url_base, progress) for f in dataset.files]
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (RunFailedError if is_full else BadInputError)(
            f"{error.filename or root}: the data cannot be stored: {error.strerror}; set "
            "OUTERLOOP_DATA to a folder that can be written and has room"
        ) from None


def list_datasets(root: Path) -> list[DatasetRow]:
    """Return a row for each data set, given the data root; every file is checked."""
    return [_row(dataset, root) for _, dataset in sorted(FETCHED.items())]


def problem_of(dataset: type[Dataset], root: Path) -> str:
    """Return what keeps `dataset` from being used, and what mends that; empty if nothing does."""
    try:
        dataset.verify(root)
    except BadInputError as error:
        return str(error)
    return ""


def _fetch_file(
    dataset: type[Dataset],
    file: SourceFile,
    root: Path,
    from_dir: Path | None,
    url_base: str | None,
    progress: Progress,
) -> FetchedFile:
    path = root / file.path
    origin = f"{url_base or file.url}/{file.name}" if from_dir is None else _find(from_dir, file)
    if path.exists():
        with suppress(BadInputError):  # a damaged file is replaced, once the new one is whole
            return FetchedFile(path, dataset.check(path, file), sha256_file(path), was_there=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if isinstance(origin, Path):
        copy(origin, part, progress)
    else:
        download(origin, part, file.max_bytes, progress)
    try:
        verdict = dataset.check(part, file)
    except BadInputError as error:
        part.unlink()
        # What was wrong is wrong at its origin; the part is gone.
        raise BadInputError(str(error).replace(str(part), str(origin))) from None
    publish(part, path)
    return FetchedFile(path, verdict, sha256_file(path), was_there=False)


def _find(folder: Path, file: SourceFile) -> Path:
    """Return where `file` lies in a folder that is laid out as a data root, or flat."""
    nested = folder / file.path
    return nested if nested.exists() else folder / file.name


def _row(dataset: type[Dataset], root: Path) -> DatasetRow:
    paths = dataset.paths(root)
    problem = problem_of(dataset, root)
    return DatasetRow(
        name=dataset.name,
        present=not problem,
        where=str(paths[0].parent) if paths else "embedded",
        size_bytes=sum(path.stat().st_size for path in paths if path.is_file()),
        licence=dataset.licence,
        how=dataset.how(),
        problem=problem,
    )
