"""`outerloop sync`: a run that was offline is in MLflow whole, and once, after it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jobs import cli
from pipeline.runs import RunFolder
from pipeline.verify import verify_run
from tests.jobs.words_for_tests import TINY
from tests.pipeline.mlflow_for_tests import Server, client
from tests.processes import ROOT


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A run whose MLflow server, at an address that stays, has never been there."""
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    # In a process of its own, which ends: what still tries to send in it does so no more.
    command = [sys.executable, "-m", "jobs.cli", "train", *TINY, "meta.steps=3"]
    subprocess.run([*command, "--run-id", "offline"], cwd=ROOT, check=True)
    yield server
    if server.process:
        server.kill()


def said(capsys, *words, code=0):
    assert cli.run(["--json", "sync", *words]) == code
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_run_that_was_offline_is_sent_whole_and_once(offline, capsys):
    refused = said(capsys, code=1)["error"]
    assert refused.startswith(f"MLflow at {offline.uri}: ")
    assert "metric points and" in refused
    assert refused.endswith("of run offline wait")

    offline.start()
    (sent,) = said(capsys)["runs"]
    assert sent["run_id"] == "offline"
    assert sent["points"] > 20
    assert sent["items"] > 5
    assert sent["left"] == 0
    assert said(capsys)["runs"] == []
    (again,) = said(capsys, "offline")["runs"]
    assert (again["points"], again["items"]) == (0, 0)

    verdict = verify_run(RunFolder.open("offline"), 60.0)
    assert not verdict.report.problems
    assert verdict.status == "FINISHED"
    store = client(offline.uri)
    found = store.search_runs([e.experiment_id for e in store.search_experiments()])
    (run,) = [one for one in found if "mlflow.parentRunId" not in one.data.tags]
    assert len(found) == 1 + 2  # and an adaptation by each of two methods, below it
    points = store.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in points] == [1, 2, 3]


def test_a_run_that_is_at_work_is_left_to_itself(offline, capsys):
    with RunFolder.open("offline").locked():
        assert said(capsys)["runs"] == []
        assert "is in use by" in said(capsys, "offline", code=2)["error"]
    assert "unknown run 'nothing'" in said(capsys, "nothing", code=2)["error"]
