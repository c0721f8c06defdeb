"""MLflow's server as compose and Kubernetes start it, here with a database of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request

import yaml

from jobs.bench.chaos_processes import free_port
from tests.infra.manifests import INFRA
from tests.processes import wait_until

HERE = "127.0.0.1"


def options():
    """What each of the two gives `mlflow`, `server` first."""
    objects = yaml.safe_load_all((INFRA / "kubernetes" / "base" / "mlflow.yaml").read_text())
    [deployment] = [thing for thing in objects if thing["kind"] == "Deployment"]
    yield deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    compose = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())
    yield compose["services"]["mlflow"]["command"]


def allowed_hosts(words):
    [hosts] = [word for word in words if word.startswith("--allowed-hosts=")]
    return hosts.partition("=")[2].split(",")


def status(port, path, host):
    """What the server answers to a request for `host`."""
    request = urllib.request.Request(f"http://{HERE}:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def test_the_server_answers_by_its_names_and_to_probes_only(tmp_path):
    kubernetes, compose = options()
    assert set(allowed_hosts(compose)) < set(allowed_hosts(kubernetes))
    port = free_port()
    mine = {"--host=0.0.0.0": f"--host={HERE}", "--port=5000": f"--port={port}"}
    mine["--artifacts-destination=/artifacts"] = f"--artifacts-destination={tmp_path / 'artifacts'}"
    words = [mine.get(word, word) for word in kubernetes]
    assert set(mine.values()) < set(words)
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "mlflow", *words]
        server = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until(lambda: status(port, "/health", "10.0.0.1:5000") == 200, 120)
        api = "/api/2.0/mlflow/experiments/get?experiment_id=0"
        for host in ("mlflow:5000", "mlflow.outerloop.svc:5000", "localhost:5000", "127.0.0.1:1"):
            assert status(port, api, host) == 200, host
        assert status(port, api, "mlflow.example:5000") == 403
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
