"""Lake's one-shot classification test: 20 runs of 20 training and 20 test drawings.

Lake, Salakhutdinov and Tenenbaum (2015), Science 350. A run has one drawing of each of 20
characters of one alphabet of Omniglot's evaluation set, by one person, and 20 to be told apart, by
another. Drawings are decoded as those of Omniglot.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from algorithms.types import Episode
from pipeline.data.archives import open_archive
from pipeline.data.cache import cached
from pipeline.data.dataset import Dataset, SourceFile
from pipeline.data.image_classes import ImageClasses, image_classes
from pipeline.data.omniglot import (
    ACCEPTED,
    MAX_PNG_BYTES,
    OFFICIAL_FOLDER,
    checked_png,
    decode_drawing,
    known_by_hash,
    sha256,
)
from pipeline.data.paths import cache_root, data_root
from pipeline.errors import BadInputError

DECODER_VERSION = 1
NUM_RUNS = 20
NUM_WAYS = 20
ANSWER = re.compile(r"(run\d\d/test/item\d\d\.png) (run\d\d/training/class\d\d\.png)")


class OneShotRuns(Dataset):
    """The 20 runs, as classes `run<NN>/class<NN>` of two drawings: to learn from, and to name."""

    name = "omniglot-one-shot"
    licence = "MIT (Copyright (c) 2015 Brenden Lake)"
    files = (
        SourceFile(
            "omniglot/all_runs.zip",
            f"{OFFICIAL_FOLDER}/one-shot-classification",
            md5="e8996daecdf12afeeb4a53a179f06b19",
            repacked_sha256="",
        ),
    )

    def identity(self) -> str:
        """Return the archive's hash; BadInputError says how to get it."""
        return f"one-shot runs {DECODER_VERSION} {sha256(self.locate(self.root, self.files[0]))}"

    def decode(self) -> ImageClasses:
        """Return the drawings: of each class the one of the training set, then the test's."""
        path = self.locate(self.root, self.files[0])
        names, drawings = [], []
        for training, test in _pairs(path):
            names.append(training[0].replace("training/", "").removesuffix(".png"))
            drawings += [decode_drawing(path, name, png) for name, png in (training, test)]
        source = f"{path.name} ({self.check(path, self.files[0])}; SHA-256 {sha256(path)})"
        sizes = [(name, 2) for name in names]
        return image_classes(self.name, np.stack(drawings), sizes, source, self.licence)

    @classmethod
    def check(cls, path: Path, file: SourceFile) -> str:
        """Say what the archive is known by; read every drawing of one with another hash."""
        known_by = known_by_hash(path, file)
        if not known_by:
            _pairs(path)
        return known_by or ACCEPTED


def load_one_shot_runs() -> ImageClasses:
    """Return the runs, memory-mapped; decoded and cached first where they are not yet."""
    dataset = OneShotRuns(data_root())
    found = cached(cache_root(), dataset.name, dataset.identity(), dataset.decode)
    assert isinstance(found, ImageClasses)
    return found


def one_shot_episodes(dataset: ImageClasses, device: torch.device | str = "cpu") -> list[Episode]:
    """Return the 20 runs as 20-way 1-shot episodes of one query a way; images as Omniglot's."""
    shape = (NUM_RUNS, NUM_WAYS, 2, *dataset.images.shape[1:])
    images = torch.from_numpy(dataset.images.reshape(shape).copy()).to(device).float().div_(255)
    labels = torch.arange(NUM_WAYS, device=device)
    return [
        Episode(
            support_x=_one_channel(run[:, 0]),
            support_y=labels,
            query_x=_one_channel(run[:, 1]),
            query_y=labels,
            num_ways=NUM_WAYS,
        )
        for run in images
    ]


def _one_channel(images: torch.Tensor) -> torch.Tensor:
    """Return [B, 1, S, S] in channels-last memory."""
    return images.unsqueeze(-1).contiguous().permute(0, 3, 1, 2)


def _pairs(path: Path) -> list[tuple[tuple[str, bytes], tuple[str, bytes]]]:
    """Return, run by run, entry name and PNG of each class and of the test drawing of it.

    BadInputError if the archive does not hold exactly the runs, each with answers that give every
    class one of its test drawings.
    """
    expected = {
        f"run{run:02}/{kind}{number:02}.png"
        for run in range(1, NUM_RUNS + 1)
        for kind in ("training/class", "test/item")
        for number in range(1, NUM_WAYS + 1)
    }
    with open_archive(path, MAX_PNG_BYTES) as files:
        answers = {f"run{run:02}/class_labels.txt" for run in range(1, NUM_RUNS + 1)}
        for name in files:
            if name not in expected | answers:
                raise BadInputError(f"{path}: entry {name!r:.120} is not one of the test's")
        for name in sorted(expected | answers):
            if name not in files:
                raise BadInputError(f"{path}: entry {name} is missing")
        item_of: dict[str, str] = {}
        for name in sorted(answers):
            text = files[name]().decode("ascii", "replace")
            item_of |= _answers(f"{path}: {name}", name[:5], text)
        pngs = {name: checked_png(path, name, files[name]()) for name in sorted(expected)}
    return [
        ((training, pngs[training]), (item_of[training], pngs[item_of[training]]))
        for training in sorted(item_of)
    ]


def _answers(where: str, run: str, text: str) -> dict[str, str]:
    """Return the test entry of each training entry of `run`."""
    found: dict[str, str] = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        match = ANSWER.fullmatch(line)
        if not match or not all(name.startswith(f"{run}/") for name in match.groups()):
            raise BadInputError(f"{where}: {line!r:.120} is no answer of {run}")
        found[match[2]] = match[1]
    if len(found) != NUM_WAYS or len(set(found.values())) != NUM_WAYS:
        raise BadInputError(f"{where}: expected one answer for each of {NUM_WAYS} drawings")
    return found
