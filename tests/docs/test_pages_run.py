"""What the pages show is run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from jobs import cli
from tests.docs.pages import blocks, page, write_files
from tests.jobs.words_for_tests import TINY
from tests.pipeline.runs_for_tests import at_home
from tests.processes import ROOT


@pytest.fixture
def outerloop(tmp_path, monkeypatch, capsys):
    """Runs a command in `tmp_path`, whose modules can be imported; gives code, out and err."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    threads = torch.get_num_threads()

    def call(*words):
        code = cli.run(words)
        out, err = capsys.readouterr()
        return code, out, err

    with at_home(tmp_path / "runs"):
        yield call
    torch.set_num_threads(threads)


def run_python(folder, *arguments):
    """Run a file of the page in a process of its own; return what it printed."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{folder}", "OUTERLOOP_HOME": str(folder / "runs")},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_algorithm_of_the_page_passes_its_tests(tmp_path):
    write_files("write-an-algorithm", tmp_path)
    said = run_python(tmp_path, "-m", "pytest", "-q", "test_mean_reptile.py")
    assert "6 passed" in said


def test_the_algorithm_of_the_page_meta_trains(tmp_path, outerloop):
    write_files("write-an-algorithm", tmp_path)
    assert "outerloop train mean-reptile.yaml\n" in page("write-an-algorithm")
    words = [word for word in TINY if word != "quickstart"]
    code, out, err = outerloop("train", "mean-reptile.yaml", *words, "meta.steps=2", "--json")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["outer_steps"] == 2
    config = (tmp_path / "runs" / result["run_id"] / "config.yaml").read_text()
    assert "mean_reptile:MeanReptile" in config
    assert "skip: 10" in config


def test_the_bad_option_of_the_page_is_told_as_it_says(tmp_path, outerloop):
    write_files("write-an-algorithm", tmp_path)
    ((command, said),) = blocks("write-an-algorithm", "text").items()
    code, _, err = outerloop(*command.partition("outerloop ")[2].split())
    assert code == 2
    assert err == said


def test_folders_of_pictures_are_episodes_as_the_page_says(tmp_path, outerloop):
    draw_pictures(tmp_path / "my-pictures", num_classes=15, num_pictures=5)
    line = next(x for x in page("write-a-task").splitlines() if "data.name=folder:my-pic" in x)
    tiny = ["episodes.train_num_ways=2", "episodes.num_ways=2", "episodes.num_queries=2"]
    tiny += ["episodes.num_test=4", "episodes.num_val=4", "model.num_filters=4", "meta.steps=2"]
    code, out, err = outerloop(*line.split()[1:], *tiny, "workers.count=0", "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["outer_steps"] == 2


@pytest.mark.parametrize(
    ("script", "tiny", "said"),
    [
        (
            "try_reach.py",
            "meta.steps=1 meta.batch_size=2 inner.num_steps=10 evaluation.num_steps=10 "
            "environments.num_held_out=2 environments.num_envs=2 environments.unroll=8",
            "reach:Reach-v0",
        ),
        (
            "try_stripes.py",
            "meta.steps=2 episodes.num_test=4 episodes.num_val=4 model.num_filters=4",
            "stripes",
        ),
    ],
    ids=["environment", "data set"],
)
def test_what_the_page_adds_meta_trains(tmp_path, script, tiny, said):
    write_files("write-a-task", tmp_path)
    printed = run_python(tmp_path, script, *tiny.split())
    assert "Meta-test" in printed
    assert said in printed


def test_tasks_of_the_page_differ_in_what_varies(tmp_path):
    write_files("write-a-task", tmp_path)
    script = """
from jobs import catalog
from pipeline.environments.control import PHYSICS, PhysicsParameter
from pipeline.tasks.environment_pools import ControlPool
PHYSICS["reach:Reach-v0"] = {"place": PhysicsParameter("place", 0.2, 1.8)}
print(ControlPool(catalog.load("./leap-reach.yaml", [])).profile("test")["physics"])
"""
    places = run_python(tmp_path, "-c", script).replace("place ", "").split("; ")
    assert len({float(place) for place in places}) == 10
    assert all(0.2 < float(place) < 1.8 for place in places)


def test_the_task_of_the_page_is_learned_faster_after_meta_training(tmp_path):
    write_files("write-a-task", tmp_path)
    said = dict(line.split(": ") for line in run_python(tmp_path, "try_sine.py").splitlines())
    assert float(said["after"]) < 0.6 * float(said["before"])


def draw_pictures(folder, num_classes, num_pictures, side=28):
    """Write noise of a class's own brightness, as PNG."""
    generator = np.random.default_rng(0)
    for number in range(num_classes):
        (folder / f"class{number:02}").mkdir(parents=True)
        for picture in range(num_pictures):
            pixels = generator.integers(0, 60 + 12 * number, (side, side), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{number:02}" / f"{picture}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with what the pages read: `run/`, `my-model/`, `my-pictures/` and `new.png`."""
    folder = tmp_path_factory.mktemp("trained")
    with at_home(folder / "runs"):
        threads = torch.get_num_threads()
        words = [*TINY, "meta.steps=2", "--run-id", "run"]
        assert cli.run(["train", *words]) == 0
        assert cli.run(["export", "run", str(folder / "my-model")]) == 0
        torch.set_num_threads(threads)
    (folder / "run").symlink_to(folder / "runs" / "run")
    draw_pictures(folder / "my-pictures", num_classes=3, num_pictures=5)
    shutil.copy(folder / "my-pictures/class00/0.png", folder / "new.png")
    return folder


@pytest.mark.parametrize(
    ("name", "title", "said"),
    [
        ("first-steps", "trajectory.py", r"meta_step\n0 +\d.*\n1 +\d"),
        ("first-steps", "use.py", r"\['class0\d'\]"),
        ("metrics", "curve.py", r"\[\(1, \d\.\d+\), \(2, \d\.\d+\)\]"),
        ("performance", "busy.py", r"a worker: \d+ inner steps/s; the run: \d+"),
    ],
    ids=lambda value: str(value),
)
def test_what_the_pages_read_of_a_run_is_there(trained, name, title, said):
    assert re.search(said, run_python(trained, "-c", blocks(name, "python")[title]))
