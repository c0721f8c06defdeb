"""Lake's one-shot test: read from its archive, checked, as 20 fixed episodes."""

import os
import zipfile
from pathlib import Path

import pytest
import torch

from pipeline.data.one_shot_runs import OneShotRuns, load_one_shot_runs, one_shot_episodes
from pipeline.data.registry import load_dataset
from pipeline.errors import BadInputError
from tests.pipeline.data.archives import drawing, write_zip

DATA = os.environ.get("OUTERLOOP_DATA", "")
FILE = OneShotRuns.files[0]


def entries():
    """Runs in which item k shows class 21 - k."""
    found = {}
    for run in range(1, 21):
        lines = []
        for number in range(1, 21):
            found[f"run{run:02}/training/class{number:02}.png"] = drawing(number)
            found[f"run{run:02}/test/item{number:02}.png"] = drawing(40 - number)
            item, named = f"run{run:02}/test/item{number:02}.png", 21 - number
            lines.append(f"{item} run{run:02}/training/class{named:02}.png")
        found[f"run{run:02}/class_labels.txt"] = "\n".join(lines) + "\n"
    return found


def test_queries_are_paired_with_their_classes_by_the_answers(tmp_path):
    write_zip(tmp_path / FILE.path, entries())
    episodes = one_shot_episodes(OneShotRuns(tmp_path).decode())
    assert len(episodes) == 20
    episode = episodes[0]
    assert episode.support_x.shape == episode.query_x.shape == (20, 1, 28, 28)
    assert torch.equal(episode.query_y, torch.arange(20))
    # Class c is drawing c, and item 21 - c, which is drawing 19 + c: both start lower with c.
    for images in (episode.support_x, episode.query_x):
        rows = images[:, 0, :, 3].argmax(dim=1)
        assert (rows.diff() >= 0).all()
        assert rows[0] < rows[-1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"../evil.png": b""}, "leave the archive"),
        ({"run01/test/item21.png": drawing(1)}, "not one of the test's"),
        ({"run02/class_labels.txt": "run03/test/item01.png run02/training/class01.png"}, "answer"),
        ({"run02/class_labels.txt": ""}, "one answer for each of 20"),
        ({"run04/training/class03.png": drawing(1, (100, 105))}, "100 by 105 pixels"),
        ({"run04/training/class03.png": b"none"}, "no PNG picture"),
    ],
)
def test_archive_of_something_else_is_refused_in_one_line(tmp_path, change, says):
    path = write_zip(tmp_path / FILE.path, entries() | change)
    with pytest.raises(BadInputError, match=says) as bad:
        OneShotRuns.check(path, FILE)
    assert "\n" not in str(bad.value)


def test_missing_drawing_is_named(tmp_path):
    rest = {name: content for name, content in entries().items() if "run07/test/item05" not in name}
    path = write_zip(tmp_path / FILE.path, rest)
    with pytest.raises(BadInputError, match=r"run07/test/item05\.png is missing"):
        OneShotRuns.check(path, FILE)


def test_absent_archive_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_DATA", str(tmp_path))
    with pytest.raises(BadInputError, match="outerloop data fetch omniglot-one-shot"):
        load_one_shot_runs()


@pytest.mark.skipif(
    not (Path(DATA) / "omniglot/all_runs.zip").is_file(),
    reason="OUTERLOOP_DATA does not point at a folder with omniglot/all_runs.zip",
)
def test_real_runs_are_drawings_of_omniglots_characters():
    runs = load_one_shot_runs()
    assert "official by its MD5" in runs.source
    omniglot = load_dataset("omniglot")
    character = {image.tobytes(): number // 20 for number, image in enumerate(omniglot.images)}
    pairs = runs.images.reshape(400, 2, 28, 28)
    for support, query in pairs:  # the two are drawings of one character
        assert character[support.tobytes()] == character[query.tobytes()]
        assert support.tobytes() != query.tobytes()
    with zipfile.ZipFile(Path(DATA) / "omniglot/all_runs.zip") as archive:
        answers = archive.read("run01/class_labels.txt").decode().splitlines()
    assert len(one_shot_episodes(runs)) == 20
    assert len(answers) == 20
