"""Which classes are for meta-training, validation and test: disjoint by construction, or checked.

Omniglot `standard` and `random` draw 1,200 characters for meta-training and 423 for the test, as
Santoro et al. (2016), arXiv:1605.06065, and the work after it; `standard` sets 100 of the 1,200
aside for validation. `vinyals` is the split of Vinyals et al. (2016), arXiv:1606.04080, and `lake`
that of Lake et al. (2015): the background set, and the evaluation set to be tested on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.data.image_classes import ClassSplit, ImageClasses, split_by_names
from pipeline.data.omniglot_alphabets import BACKGROUND
from pipeline.errors import BadInputError
from pipeline.seeding import numpy_generator

VINYALS_FILE = "omniglot/splits_vinyals.json"
NUM_OMNIGLOT_TEST = 423
NUM_OMNIGLOT_VAL = 100
TEST_SHARE, VAL_SHARE = 0.2, 0.16  # of the classes of a data set that comes without a split


def split_names(dataset: ImageClasses) -> list[str]:
    """Return the names of the splits that `dataset` has, besides files of the user's."""
    if dataset.name == "omniglot":
        return ["standard", "random", "vinyals", "lake"]
    return [*dataset.splits] or ["standard"]


def split_classes(dataset: ImageClasses, name: str, seed: int, root: Path) -> ClassSplit:
    """Return the split `name` of the classes of `dataset`.

    A split that is drawn is a function of `seed`. BadInputError for a name that it does not have,
    and for a file that is no split of its classes.

    Args:
        dataset: Whose classes are split.
        name: One of `split_names`, or the path of a JSON file: an object whose keys `train`, `val`
            and `test` hold lists of class names.
        seed: Root seed of the run.
        root: Data root, where Vinyals' split lies.
    """
    if name.endswith(".json"):
        return _from_file(Path(name), dataset)
    if name not in split_names(dataset):
        raise BadInputError(
            f"episodes.split={name}: {dataset.name} has {', '.join(split_names(dataset))}; or give "
            "the path of a .json file with lists of class names: train, val, test"
        )
    if name in dataset.splits:
        return dataset.splits[name]
    if name == "vinyals":
        return _vinyals(root / VINYALS_FILE, dataset)
    if name == "lake":
        return _background(dataset, seed)
    num = len(dataset.classes)
    if dataset.name == "omniglot":
        num_val = NUM_OMNIGLOT_VAL if name == "standard" else 0
        return _drawn(range(num), NUM_OMNIGLOT_TEST, num_val, seed)
    return _drawn(range(num), round(TEST_SHARE * num), round(VAL_SHARE * num), seed)


def _drawn(classes: range, num_test: int, num_val: int, seed: int) -> ClassSplit:
    """Return a random split; how many are for validation does not change which are for the test."""
    order = numpy_generator(seed, "class-split").permutation(classes).tolist()
    held_out = num_test + num_val
    return ClassSplit(
        train=tuple(sorted(order[held_out:])),
        val=tuple(sorted(order[num_test:held_out])),
        test=tuple(sorted(order[:num_test])),
    )


def _background(dataset: ImageClasses, seed: int) -> ClassSplit:
    """Return Omniglot's background set, 100 characters of it for validation, and the rest."""
    num = sum(c.name.partition("/")[0] in BACKGROUND for c in dataset.classes)
    drawn = _drawn(range(num), 0, NUM_OMNIGLOT_VAL, seed)  # its classes come first
    return ClassSplit(drawn.train, drawn.val, tuple(range(num, len(dataset.classes))))


def _vinyals(path: Path, dataset: ImageClasses) -> ClassSplit:
    if not path.is_file():
        raise BadInputError(
            f"{path}: not found; write there a JSON object of the lists train, val and test, of "
            "entries such as images_background/Greek/character01 (torchmeta has them: "
            "torchmeta/datasets/assets/omniglot), or choose episodes.split=standard"
        )
    parts = {
        part: [name.partition("/")[2] for name in names]  # which archive a character is in is known
        for part, names in read_split(path).items()
    }
    return split_by_names(parts, (c.name for c in dataset.classes), str(path))


def _from_file(path: Path, dataset: ImageClasses) -> ClassSplit:
    return split_by_names(read_split(path), (c.name for c in dataset.classes), str(path))


def read_split(path: Path) -> dict[str, list[str]]:
    """Return the class names of `train`, `val` and `test` in a JSON file; other keys are left."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BadInputError(f"{path}: is no JSON file ({error})") from None
    parts = {p: content.get(p) for p in ("train", "val", "test")} if _is_object(content) else {}
    found = {part: names for part, names in parts.items() if names is not None}
    if "train" not in found or "test" not in found:
        raise BadInputError(f"{path}: expected an object with lists of names: train, val, test")
    for part, names in found.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadInputError(f"{path}: {part}: expected a list of class names")
    return found


def _is_object(content: Any) -> bool:
    return isinstance(content, dict)
