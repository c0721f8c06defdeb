"""The batch script on a real Slurm of two nodes: queued again in the middle, and no bit changes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from jobs import cli
from tests.infra.slurm_for_tests import Slurm, missing
from tests.jobs.words_for_tests import SMALL
from tests.processes import ROOT, wait_until

SCRIPT = ROOT / "infra" / "slurm" / "outerloop.sbatch"
WORDS = (*SMALL, "inner.num_steps=300", "meta.steps=12", "evaluation.num_steps=2")

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture
def slurm():
    if reason := missing():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path is 107 bytes at most
    with Slurm(folder) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def submit(slurm, folder, *words):
    """The number of a job of the batch script."""
    environment = {"PYTHON": sys.executable, "OUTERLOOP_HOME": str(folder / "runs")}
    environment |= {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""}
    said = slurm.run(
        "sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", "--chdir", str(folder),
        "--output", str(folder / "job.out"), str(SCRIPT), *words, **environment,
    )  # fmt: skip
    return said.strip()


@pytest.mark.slow
def test_a_job_that_is_queued_again_ends_as_a_run_here(slurm, tmp_path, capsys, monkeypatch):
    number = submit(slurm, tmp_path, *WORDS, "workers.count=2")
    run = tmp_path / "runs" / f"outerloop-{number}"
    wait_until(lambda: len(list((run / "checkpoints").glob("step-*"))) >= 2, 180)
    slurm.run("scontrol", "requeue", number)
    wait_until(lambda: slurm.job(number).get("Restarts") == "1", 120)
    # Slurm lets two minutes pass before a job that was queued again.
    slurm.run("scontrol", "update", f"JobId={number}", "StartTime=now", check=False)
    wait_until(lambda: slurm.job(number)["JobState"] == "COMPLETED", 300)
    said = (tmp_path / "job.out").read_text()
    assert f"run outerloop-{number} goes on from outer step" in said
    assert "cluster: 2 nodes with 2 CPU cores" in said
    summary = json.loads((run / "summary.json").read_text())
    assert summary["counts"]["outer_steps"] == 12

    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "here"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert cli.run(["--json", "train", *WORDS, "workers.count=0"]) == 0
    here = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["parameters_sha256"] == here["parameters_sha256"]


def test_a_job_without_an_experiment_says_what_is_missing(slurm, tmp_path):
    number = submit(slurm, tmp_path)
    wait_until(lambda: slurm.job(number)["JobState"] == "FAILED", 60)
    assert slurm.job(number)["ExitCode"] == "2:0"
    assert "expected an experiment" in (tmp_path / "job.out").read_text()
    assert not os.path.exists(tmp_path / "runs")
