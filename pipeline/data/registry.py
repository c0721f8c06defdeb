"""The data sets, by name."""

from __future__ import annotations

from pipeline.data.alphabets import AlphabetSet
from pipeline.data.cache import cached
from pipeline.data.dataset import Dataset
from pipeline.data.glyphs import Glyphs
from pipeline.data.omniglot import Omniglot
from pipeline.data.paths import cache_root, data_root
from pipeline.errors import BadInputError

DATASETS: dict[str, type[Dataset]] = {
    "glyphs": Glyphs,
    "omniglot": Omniglot,
}


def dataset_class(name: str) -> type[Dataset]:
    """Return the class of data set `name`; BadInputError lists what there is."""
    if name not in DATASETS:
        raise BadInputError(f"data set '{name}': unknown; known: {', '.join(sorted(DATASETS))}")
    return DATASETS[name]


def load_dataset(name: str) -> AlphabetSet:
    """Return data set `name`, memory-mapped; decoded and cached first where it is not yet."""
    dataset = dataset_class(name)(data_root())
    return cached(cache_root(), name, dataset.identity(), dataset.decode)
