"""The MLflow pages: one line when they are there, and no server is left behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest

from jobs import cli
from tests.processes import ROOT, wait_until


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A home whose store is empty."""
    from mlflow import MlflowClient

    home = tmp_path_factory.mktemp("home")
    uri = f"sqlite:///{home}/mlflow.db"
    MlflowClient(uri, registry_uri=uri)
    return home


@pytest.fixture
def home(store, tmp_path, monkeypatch):
    shutil.copy(store / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@contextmanager
def started_ui(port):
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "ui", "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def commands():
    """The command lines of all processes."""
    listing = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True)
    return listing.stdout


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_the_command_however_that_ends(home, death):
    port = free_port()
    with started_ui(port) as ui:
        assert ui.stdout.readline().startswith(f"http://127.0.0.1:{port} shows sqlite:///{home}/")
        assert answers(port)
        assert f"{home}/mlflow.db" in commands()
        os.kill(ui.pid, death)
        rest, errors = ui.communicate()
    assert ui.returncode == (-9 if death == signal.SIGKILL else 0)
    assert (rest, errors) == ("", "")
    if death == signal.SIGKILL:
        wait_until(lambda: f"--port {port}" not in commands())
    assert f"--port {port}" not in commands()
    assert not answers(port)


def test_a_port_in_use_is_one_line(home, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.run(["ui", "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"error: port {port}: in use by another program, perhaps another `outerloop ui`; "
        "give another with --port\n"
    )


def test_a_server_that_cannot_start_is_one_line_with_its_last_words(home, capsys):
    (home / "mlflow.db").write_bytes(b"no database" * 500)
    assert cli.run(["ui", "--port", str(free_port())]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the MLflow server ended with code ")
    assert "file is not a database" in error
    assert error.count("\n") == 1


def test_without_a_run_there_is_nothing_to_show(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert cli.run(["ui"]) == 2
    assert "there is no run yet; start with `outerloop train quickstart`" in capsys.readouterr().err


def test_a_server_that_is_there_already_is_named_without_its_password(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:pw@tracker:5000")
    assert cli.run(["--json", "ui"]) == 0
    output = capsys.readouterr()
    assert "https://***@tracker:5000" in output.out
    assert "pw" not in output.out + output.err
