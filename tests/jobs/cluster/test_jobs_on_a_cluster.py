"""Jobs on a real cluster: a run there is the run here, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from mlflow import MlflowClient

from jobs import cli
from tests.processes import ROOT, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

TINY = (
    "quickstart",
    "data.num_train_tasks=4",
    "data.num_test_tasks=1",
    "task.num_ways=3",
    "task.batch_size=2",
    "model.num_filters=4",
    "inner.num_steps=40",
    "meta.batch_size=2",
    "checkpoint.every=1",
    "evaluation.num_steps=5",
)
ONE = "workers.count=1"


def said(capsys, *words, code=0):
    """The JSON of a command, run in this process."""
    assert cli.run(["--json", *words]) == code
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def outer_steps(cluster, run_id):
    """How many outer steps the run has checkpoints of."""
    steps = (cluster.runs / run_id / "checkpoints").glob("step-*")
    return max((int(path.name.removeprefix("step-")) for path in steps), default=0)


def driver_of(run_id):
    """The process that trains the run on the cluster."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "jobs.cli" in words and run_id in words and "submit" not in words:
            return process
    return None


def test_a_job_that_is_killed_stopped_and_resumed_ends_as_a_run_here(cluster, capsys):
    job = said(capsys, "submit", *TINY, ONE, "meta.steps=300", "--detach")
    run_id, job_id = job["run_id"], job["job_id"]
    wait_until(lambda: outer_steps(cluster, run_id) >= 2, 120)
    driver = driver_of(run_id)
    driver.send_signal(signal.SIGKILL)
    reached = outer_steps(cluster, run_id)
    wait_until(lambda: outer_steps(cluster, run_id) > reached + 1, 120)  # job.max_retries
    about = said(capsys, "jobs", "status", job_id)
    assert about["status"] == "RUNNING"
    assert about["run_id"] == run_id

    assert said(capsys, "jobs", "stop", job_id)["status"] == "STOPPED"
    assert cli.run(["jobs", "logs", job_id]) == 0
    log = capsys.readouterr().out
    assert "the driver ended (SIGKILL): started again" in log
    assert "interrupted by SIGTERM; checkpoint at outer step" in log
    assert "result:" not in log
    assert cli.run(["jobs", "stop", job_id]) == 2
    assert "has ended already (STOPPED)" in capsys.readouterr().err

    last = outer_steps(cluster, run_id) + 2
    resumed = said(capsys, "submit", "--resume", run_id, f"meta.steps={last}")
    assert resumed["status"] == "SUCCEEDED"
    assert resumed["outer_steps"] == last
    assert {job["run_id"] for job in said(capsys, "jobs", "list")["jobs"]} >= {run_id}

    here = said(capsys, "train", *TINY, f"meta.steps={last}", "workers.count=0")
    assert resumed["parameters_sha256"] == here["parameters_sha256"]
    assert resumed["final"] == here["final"]
    _check_links(cluster, resumed, said(capsys, "jobs", "status", resumed["job_id"]), last)


def _check_links(cluster, resumed, about, last):
    """From the job to its run in MLflow, and from there to the job; the run has it all."""
    client = MlflowClient(cluster.tracking.address)
    run = client.get_run(resumed["mlflow_run_id"])
    assert about["mlflow"] == resumed["mlflow"]
    assert about["mlflow"].startswith(f"{cluster.tracking.address}/#/experiments/")
    assert about["mlflow"].endswith(f"/runs/{run.info.run_id}")
    tags = run.data.tags
    assert tags["outerloop.ray_job"] == resumed["job_id"]
    assert tags["outerloop.ray_job_page"] == about["page"]
    assert len(tags["mlflow.source.git.commit"].removesuffix("-dirty")) == 40
    assert {"outerloop.host", "outerloop.version", "outerloop.data.train"} <= tags.keys()
    curve = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in curve] == list(range(1, last + 1))
    found = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "plots", "evaluation"} <= found


def test_a_run_that_the_cluster_refuses_is_refused_in_its_own_words(cluster, capsys, tmp_path):
    words = ("submit", *TINY, ONE, "workers.device=cuda", "--job-id", "once")
    error = said(capsys, *words, code=2)["error"]
    assert error.startswith("job once: workers.gpus_per_worker: 1 workers need 1 GPUs")
    assert "has, or had, a job of that name" in said(capsys, *words, code=2)["error"]
    empty = f"OUTERLOOP_DATA={tmp_path}"
    refused = said(capsys, "submit", "leap-omniglot-small", "--env", empty, code=2)
    assert "omniglot" in refused["error"]


def test_ctrl_c_leaves_the_job_at_work(cluster, capsys):
    command = [sys.executable, "-m", "jobs.cli", "submit", *TINY, ONE, "meta.steps=300"]
    following = subprocess.Popen(
        command, cwd=ROOT, env=dict(os.environ), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    for line in following.stdout:
        if line.startswith(b"step "):
            break
    following.send_signal(signal.SIGINT)
    _, errors = following.communicate(timeout=60)
    assert following.returncode == 130
    assert b"goes on; follow it again: outerloop jobs logs " in errors
    job_id = errors.split(b"jobs logs ")[1].split()[0].decode()
    assert said(capsys, "jobs", "status", job_id)["status"] == "RUNNING"
    said(capsys, "jobs", "stop", job_id)


def test_unknown_jobs_wrong_tokens_and_runs_that_are_not_there(cluster, capsys, monkeypatch):
    assert "unknown job 'nothing'" in said(capsys, "jobs", "status", "nothing", code=2)["error"]
    error = said(capsys, "submit", "--resume", "no-such-run", code=2)["error"]
    assert "unknown run 'no-such-run'" in error
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)  # Ray keeps the one that a process began with
    command = [sys.executable, "-m", "jobs.cli", "jobs", "list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "wants a token" in done.stderr
    assert done.stderr.count("\n") == 1
