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

from tests.jobs.words_for_tests import SMALL
from tests.processes import ROOT, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

TINY = (*SMALL, "inner.num_steps=40", "evaluation.num_steps=5")
ONE = "workers.count=1"


def run(*words, code=0):
    """What a command says, in a process of its own: Ray keeps the token that one began with."""
    command = [sys.executable, "-m", "jobs.cli", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def said(*words, code=0):
    """The JSON of a command."""
    return json.loads(run("--json", *words, code=code).stdout.splitlines()[-1])


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


def test_a_job_that_is_killed_stopped_and_resumed_ends_as_a_run_here(cluster):
    """A node leaves and comes back besides, and workers with it."""
    job = said("submit", *TINY, "workers.count=auto", "meta.steps=2000", "--detach")
    run_id, job_id = job["run_id"], job["job_id"]
    log = cluster.runs / run_id / "log.txt"
    wait_until(lambda: outer_steps(cluster, run_id) >= 2, 120)
    cluster.nodes.kill_second()
    wait_until(lambda: "has room for 1 worker now; there were 2" in log.read_text(), 120)
    cluster.nodes.start_second()
    wait_until(lambda: "has room for 2 workers now; there were 1" in log.read_text(), 120)
    driver_of(run_id).send_signal(signal.SIGKILL)
    reached = outer_steps(cluster, run_id)
    wait_until(lambda: outer_steps(cluster, run_id) > reached + 1, 120)  # job.max_retries
    about = said("jobs", "status", job_id)
    assert about["status"] == "RUNNING"
    assert about["run_id"] == run_id

    assert said("jobs", "stop", job_id)["status"] == "STOPPED"
    log = run("jobs", "logs", job_id).stdout
    assert "cluster: 2 nodes with 2 CPU cores and 0 GPUs; asked for: as many workers as fit" in log
    assert "the driver ended (SIGKILL): started again" in log
    assert "interrupted by SIGTERM; checkpoint at outer step" in log
    assert "result:" not in log
    refused = run("jobs", "stop", job_id, code=2)
    assert "has ended already (STOPPED)" in refused.stderr

    last = outer_steps(cluster, run_id) + 2
    resumed = said("submit", "--resume", run_id, f"meta.steps={last}")
    assert resumed["status"] == "SUCCEEDED"
    assert resumed["outer_steps"] == last
    assert {job["run_id"] for job in said("jobs", "list")["jobs"]} >= {run_id}

    here = said("train", *TINY, f"meta.steps={last}", "workers.count=0")
    assert resumed["parameters_sha256"] == here["parameters_sha256"]
    assert resumed["final"] == here["final"]
    _check_links(cluster, resumed, said("jobs", "status", resumed["job_id"]), last)


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


def test_a_run_that_the_cluster_refuses_is_refused_in_its_own_words(cluster, tmp_path):
    words = ("submit", *TINY, ONE, "workers.device=cuda", "--job-id", "once")
    error = said(*words, code=2)["error"]
    assert error.startswith("job once: workers.gpus_per_worker: 1 workers need 1 GPUs")
    assert "has, or had, a job of that name" in said(*words, code=2)["error"]
    empty = f"OUTERLOOP_DATA={tmp_path}"
    refused = said("submit", "leap-omniglot-small", "--env", empty, code=2)
    assert "omniglot" in refused["error"]


def followed_until(number, *words):
    """What the command says in the end, if it gets that signal while it follows a job."""
    command = [sys.executable, "-m", "jobs.cli", *words]
    following = subprocess.Popen(
        command, cwd=ROOT, env=dict(os.environ), stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    for line in following.stdout:
        if line.startswith(b"step "):
            break
    following.send_signal(number)
    _, errors = following.communicate(timeout=60)
    assert following.returncode == 130
    return errors.decode()


def test_ctrl_c_or_a_closed_terminal_leaves_the_job_at_work(cluster):
    errors = followed_until(signal.SIGINT, "submit", *TINY, ONE, "meta.steps=2000")
    assert "goes on; follow it again: outerloop jobs logs " in errors
    job_id = errors.split("jobs logs ")[1].split()[0]
    assert followed_until(signal.SIGHUP, "jobs", "logs", job_id, "--follow") == errors
    assert said("jobs", "status", job_id)["status"] == "RUNNING"
    said("jobs", "stop", job_id)


def test_unknown_jobs_wrong_tokens_and_runs_that_are_not_there(cluster, monkeypatch):
    assert "unknown job 'nothing'" in said("jobs", "status", "nothing", code=2)["error"]
    error = said("submit", "--resume", "no-such-run", code=2)["error"]
    assert "unknown run 'no-such-run'" in error
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    refused = run("jobs", "list", code=2)
    assert "wants a token" in refused.stderr
    assert refused.stderr.count("\n") == 1
