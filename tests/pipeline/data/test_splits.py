"""Class splits: disjoint, of the published sizes, and one clear line for a file that is none."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.image_classes import image_classes
from pipeline.data.omniglot_alphabets import BACKGROUND, EVALUATION
from pipeline.data.splits import split_classes
from pipeline.errors import BadInputError

DATA = Path(os.environ.get("OUTERLOOP_DATA", ""))


def named(name, classes):
    images = np.zeros((len(classes), 2, 2), dtype=np.uint8)
    return image_classes(name, images, [(c, 1) for c in classes], "a test", "none")


@pytest.fixture(scope="module")
def omniglot():
    alphabets = BACKGROUND | EVALUATION
    names = [f"{a}/character{i:02}" for a, num in alphabets.items() for i in range(1, num + 1)]
    return named("omniglot", names)


def assert_disjoint(split, num):
    parts = [*split.train, *split.val, *split.test]
    assert len(set(parts)) == len(parts) <= num
    assert set(parts) <= set(range(num))


@pytest.mark.parametrize(
    ("name", "counts"),
    [("standard", (1100, 100, 423)), ("random", (1200, 0, 423)), ("lake", (864, 100, 659))],
)
def test_omniglots_splits_are_disjoint_and_of_their_sizes(omniglot, name, counts):
    split = split_classes(omniglot, name, 0, Path())
    assert (len(split.train), len(split.val), len(split.test)) == counts
    assert_disjoint(split, 1623)
    assert split == split_classes(omniglot, name, 0, Path())
    assert split != split_classes(omniglot, name, 1, Path())


def test_validation_characters_are_taken_from_those_for_training(omniglot):
    standard, random = (split_classes(omniglot, n, 3, Path()) for n in ("standard", "random"))
    assert standard.test == random.test
    assert sorted(standard.train + standard.val) == list(random.train)


def test_lakes_split_keeps_the_evaluation_set_for_the_test(omniglot):
    split = split_classes(omniglot, "lake", 0, Path())
    alphabets = {omniglot.classes[n].name.split("/")[0] for n in split.train + split.val}
    assert alphabets == set(BACKGROUND)
    assert {omniglot.classes[n].name.split("/")[0] for n in split.test} == set(EVALUATION)


@pytest.mark.skipif(
    not (DATA / "omniglot/splits_vinyals.json").is_file(),
    reason="OUTERLOOP_DATA does not point at a folder with omniglot/splits_vinyals.json",
)
def test_vinyals_split_has_its_published_sizes(omniglot):
    split = split_classes(omniglot, "vinyals", 0, DATA)
    assert (len(split.train), len(split.val), len(split.test)) == (1028, 172, 423)
    assert_disjoint(split, 1623)


def test_absent_file_of_vinyals_split_is_one_line_that_says_what_it_is(omniglot, tmp_path):
    with pytest.raises(
        BadInputError, match=r"splits_vinyals\.json: not found; .*train, val"
    ) as bad:
        split_classes(omniglot, "vinyals", 0, tmp_path)
    assert "\n" not in str(bad.value)


def test_data_without_a_split_of_its_own_is_drawn_by_seed():
    data = named("glyphs", [f"c{n}" for n in range(100)])
    split = split_classes(data, "standard", 0, Path())
    assert (len(split.train), len(split.val), len(split.test)) == (64, 16, 20)
    assert_disjoint(split, 100)


def test_unknown_split_lists_what_there_is(omniglot):
    with pytest.raises(BadInputError, match=r"episodes\.split=vinjals: omniglot has standard, ran"):
        split_classes(omniglot, "vinjals", 0, Path())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"train": ["a", "b"], "test": ["b"]}, "class 'b' is in train and in test; expected"),
        ({"train": ["a"], "val": ["a"], "test": ["b"]}, "class 'a' is in train and in val"),
        ({"train": ["a", "x"], "test": ["b"]}, "train: no class is named 'x'"),
        ({"train": ["a", "a"], "test": ["b"]}, "train: class 'a' comes twice"),
        ({"train": ["a"]}, "lists of names: train, val, test"),
        (["a"], "lists of names: train, val, test"),
        ({"train": [1], "test": []}, "train: expected a list of class names"),
        ("{", "is no JSON file"),
        (None, "cannot be read"),
    ],
)
def test_bad_split_file_is_one_line_that_names_it(tmp_path, content, says):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(BadInputError, match=says) as bad:
        split_classes(named("folder", ["a", "b", "c"]), str(path), 0, Path())
    assert str(bad.value).startswith(str(path))
    assert "\n" not in str(bad.value)


def test_split_file_of_ones_own_is_taken(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"train": ["c"], "test": ["a"], "note": "mine"}))
    split = split_classes(named("folder", ["a", "b", "c"]), str(path), 0, Path())
    assert (split.train, split.val, split.test) == ((2,), (), (0,))
