"""The data sets, by name."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.alphabets import AlphabetSet
from pipeline.data.cache import cached
from pipeline.data.cifar_fs import CifarFS
from pipeline.data.dataset import Dataset
from pipeline.data.glyphs import Glyphs
from pipeline.data.image_classes import ImageClasses, characters_of
from pipeline.data.image_folder import PREFIX, ImageFolder
from pipeline.data.miniimagenet import MiniImageNet
from pipeline.data.omniglot import Omniglot
from pipeline.data.one_shot_runs import OneShotRuns
from pipeline.data.paths import cache_root, data_root
from pipeline.errors import BadInputError

DATASETS: dict[str, type[Dataset]] = {
    "cifar-fs": CifarFS,
    "glyphs": Glyphs,
    "miniimagenet": MiniImageNet,
    "omniglot": Omniglot,
}
# What `outerloop data` knows besides: files that belong to one of the data sets.
FETCHED: dict[str, type[Dataset]] = {**DATASETS, OneShotRuns.name: OneShotRuns}


def dataset_class(name: str) -> type[Dataset]:
    """Return the class of data set `name`; BadInputError lists what there is."""
    return _known(name, DATASETS)


def fetched_class(name: str) -> type[Dataset]:
    """Return the class of what `outerloop data fetch` gets as `name`; BadInputError as above."""
    return _known(name, FETCHED)


def load_dataset(name: str) -> AlphabetSet:
    """Return data set `name`, memory-mapped; decoded and cached first where it is not yet.

    BadInputError for one that has no alphabets.
    """
    found = _load(name)
    if isinstance(found, ImageClasses):
        raise BadInputError(
            f"data.name={name}: has classes, but no alphabets; it is for episodes "
            "(task.kind=episodes)"
        )
    return found


def load_image_classes(name: str) -> ImageClasses:
    """Return data set `name` as classes, as `load_dataset`; of alphabets, their characters."""
    found = _load(name)
    return found if isinstance(found, ImageClasses) else characters_of(found)


def image_shape(name: str) -> tuple[int, int]:
    """Return channels and side in pixels of the images of data set `name`."""
    dataset = _opened(name)
    side = dataset.image_size if isinstance(dataset, ImageFolder) else dataset.side
    return dataset.channels, side


def _load(name: str) -> AlphabetSet | ImageClasses:
    dataset = _opened(name)
    return cached(cache_root(), dataset.name, dataset.identity(), dataset.decode)


def _opened(name: str) -> Dataset:
    """Return data set `name`, or for `folder:PATH` the user's folder PATH."""
    if name.startswith(PREFIX):
        return ImageFolder(Path(name.removeprefix(PREFIX)).expanduser().absolute())
    return dataset_class(name)(data_root())


def _known(name: str, datasets: dict[str, type[Dataset]]) -> type[Dataset]:
    if name not in datasets:
        raise BadInputError(f"data set '{name}': unknown; known: {', '.join(sorted(datasets))}")
    return datasets[name]
