"""MLflow's server as Kubernetes and compose start it: over sqlite, over a real PostgreSQL."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from jobs.bench.chaos_processes import Group, free_port
from tests.infra.manifests import INFRA
from tests.pipeline.storage_for_tests import CREDENTIALS, S3Server, needs_moto
from tests.processes import wait_until

HERE = "127.0.0.1"
COMPOSE = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())["services"]["mlflow"]
PASSWORD = "0123456789abcdef"


def kubernetes_options():
    objects = yaml.safe_load_all((INFRA / "kubernetes" / "base" / "mlflow.yaml").read_text())
    [deployment] = [thing for thing in objects if thing["kind"] == "Deployment"]
    return deployment["spec"]["template"]["spec"]["containers"][0]["args"]


def own(options, port, artifacts):
    """The options, with an address and a place for artifacts of this test's own."""
    changes = {"--host=0.0.0.0": f"--host={HERE}", "--port=5000": f"--port={port}"}
    words = [changes.get(word, word) for word in options]
    for place, word in enumerate(words):
        if word.startswith("--artifacts-destination="):
            words[place] = f"--artifacts-destination={artifacts}"
    assert not set(changes) & set(words)
    return words


@contextmanager
def serving(command, port, folder, environment):
    server = Group(command, folder / "log", environment)
    try:
        wait_until(lambda: status(port, "/health", "10.0.0.1:5000") == 200, 120)
        yield
    finally:
        server.kill()


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


@pytest.fixture
def postgresql(monkeypatch):
    """The port of a PostgreSQL with the user and database of compose.yaml, for this test."""
    pytest.importorskip("psycopg2")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("needs PostgreSQL (Debian: postgresql)")
    folder, port = Path(tempfile.mkdtemp(prefix="postgresql-")), free_port()
    who = {"user": "postgres"} if os.geteuid() == 0 else {}  # it refuses to be root
    if who:
        shutil.chown(folder, "postgres")

    def run(program, *words):
        words = [str(programs[-1].with_name(program)), *map(str, words)]
        # To a file: the server goes on holding what its starter was given.
        with (folder / "said").open("ab") as said:
            subprocess.run(words, cwd=folder, stdout=said, stderr=said, check=True, **who)

    (folder / "password").write_text(f"{PASSWORD}\n")
    data = folder / "data"
    run("initdb", "-D", data, "-U", "mlflow", f"--pwfile={folder / 'password'}",
        "--auth=scram-sha-256")  # fmt: skip
    run("pg_ctl", "-D", data, "-w", "-o", f"-p {port} -h {HERE} -k {folder}", "start")
    try:
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        run("createdb", "-h", HERE, "-p", port, "-U", "mlflow", "mlflow")
        yield port
    finally:
        run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def storage():
    server = S3Server()
    yield server
    server.kill()


def test_the_server_answers_by_its_names_and_to_probes_only(tmp_path):
    port = free_port()
    words = own(kubernetes_options(), port, tmp_path / "artifacts")
    environment = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with serving([sys.executable, "-m", "mlflow", *words], port, tmp_path, environment):
        api = "/api/2.0/mlflow/experiments/get?experiment_id=0"
        for host in ("mlflow:5000", "mlflow.outerloop.svc:5000", "localhost:5000", "127.0.0.1:1"):
            assert status(port, api, host) == 200, host
        assert status(port, api, "mlflow.example:5000") == 403


@needs_moto
def test_the_server_keeps_runs_in_postgresql_and_artifacts_in_s3(tmp_path, postgresql, storage):
    """By compose's entry point; password and address of the database are this test's."""
    port, secret = free_port(), tmp_path / "secret"
    secret.write_text(f"{PASSWORD}\n")
    shell, option, script, name = COMPOSE["entrypoint"]
    script = script.replace("$$", "$").replace("/run/secrets/mlflow_db", str(secret))
    script = script.replace("@db:5432/", f"@{HERE}:{postgresql}/")
    command = [shell, option, script, name, *own(COMPOSE["command"], port, "s3://bucket/mlflow")]
    bucket = f"http://{HERE}:{storage.port}"
    given = {"MLFLOW_S3_ENDPOINT_URL": bucket, "AWS_DEFAULT_REGION": "us-east-1"}
    given |= {name: CREDENTIALS[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    assert given.keys() == set(COMPOSE["environment"])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with serving(command, port, tmp_path, given | {"PATH": path}):
        client = MlflowClient(f"http://{HERE}:{port}")
        run = client.create_run("0").info.run_id
        client.log_metric(run, "loss", 0.5)
        client.log_artifact(run, str(secret))
        assert client.get_run(run).data.metrics == {"loss": 0.5}
    with urllib.request.urlopen(f"{bucket}/bucket?list-type=2", timeout=20) as listed:
        assert f"mlflow/0/{run}/artifacts/{secret.name}" in listed.read().decode()


def test_addresses_of_databases_name_the_driver_that_the_image_has():
    """Which one SQLAlchemy takes by itself has changed between its versions."""
    image = (INFRA / "docker" / "mlflow.Dockerfile").read_text()
    texts = (INFRA / "compose" / "compose.yaml", INFRA / "README.md")
    for path in texts:
        [driver] = re.findall(r"postgresql\+?(\w*)://", path.read_text())
        assert f'"{driver}-binary' in image
