"""A folder of one's own as a data set."""

import numpy as np
import pytest

from pipeline.data.registry import image_shape, load_image_classes
from pipeline.errors import BadInputError
from tests.pipeline.data.test_colour_sets import pixels, png


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "pictures"
    for number, name in enumerate(["cat", "dog"]):
        (root / name).mkdir(parents=True)
        for which in range(2 + number):  # classes of different sizes
            (root / name / f"{which}.png").write_bytes(png(pixels(number, which, side=40)))
    (root / "notes.txt").write_text("not a class")
    return root


def test_folders_are_classes(folder):
    data = load_image_classes(f"folder:{folder}")
    assert [(c.name, c.rows) for c in data.classes] == [("cat", range(2)), ("dog", range(2, 5))]
    assert np.array_equal(data.images[3], pixels(1, 1, side=40))
    assert image_shape(f"folder:{folder}") == (3, 40)
    assert image_shape("glyphs") == (1, 28)


def test_new_picture_is_seen_although_the_folder_is_cached(folder):
    load_image_classes(f"folder:{folder}")
    (folder / "cat/9.png").write_bytes(png(pixels(7, 7, side=40)))
    assert len(load_image_classes(f"folder:{folder}").classes[0].rows) == 3


def test_picture_of_another_size_is_named(folder):
    (folder / "dog/1.png").write_bytes(png(pixels(0, 0, side=41)))
    with pytest.raises(BadInputError, match=r"dog/1\.png: 41 by 41 pixels; expected 40 by 40"):
        load_image_classes(f"folder:{folder}")
    (folder / "cat/0.png").write_bytes(png(pixels(0, 0, side=40)[:20]))
    with pytest.raises(BadInputError, match=r"cat/0\.png: 40 by 20 pixels; to train on a folder"):
        load_image_classes(f"folder:{folder}")


def test_folder_without_classes_is_one_line(folder):
    with pytest.raises(BadInputError, match=r"has no pictures; expected a folder for each class"):
        load_image_classes(f"folder:{folder / 'cat'}")
    with pytest.raises(BadInputError, match=r"nowhere: cannot be read: No such file"):
        load_image_classes(f"folder:{folder / 'nowhere'}")
