"""What the pages show is run as it stands there."""

from __future__ import annotations

import json
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
        env={"PYTHONPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin"},
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
