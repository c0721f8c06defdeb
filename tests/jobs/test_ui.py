"""The MLflow pages: one line when they are there, and no server is left behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from tempfile import TemporaryFile

import pytest

from jobs import cli, ui
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
def started_ui(port, folder=ROOT, **environment):
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "jobs.cli", "ui", "--port", str(port)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
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


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_server_ends_with_the_command_however_that_ends(home, death):
    port = free_port()
    with started_ui(port) as process:
        assert process.stdout.readline().startswith(
            f"http://127.0.0.1:{port} shows sqlite:///{home}/"
        )
        assert answers(port)
        assert f"{home}/mlflow.db" in commands()
        os.kill(process.pid, death)
        rest, errors = process.communicate()
    assert process.returncode == (-9 if death == signal.SIGKILL else 0)
    assert (rest, errors) == ("", "")
    if death == signal.SIGKILL:
        wait_until(lambda: f"--port {port}" not in commands())
    assert f"--port {port}" not in commands()
    assert not answers(port)


@pytest.mark.timeout(90)
def test_neither_a_proxy_nor_modules_of_the_users_folder_are_in_the_way(home, tmp_path):
    folder = tmp_path / "users"
    folder.mkdir()
    for module in ("jobs", "mlflow", "uvicorn", "fastapi"):
        (folder / f"{module}.py").write_text(f"raise SystemExit('{module} of this folder')")
    port = free_port()
    with started_ui(port, folder, http_proxy=f"http://127.0.0.1:{free_port()}") as process:
        assert process.stdout.readline().startswith(f"http://127.0.0.1:{port} shows "), (
            process.stderr.read()
        )
        process.terminate()
        process.wait()


def test_a_server_that_never_answers_is_given_up(home, monkeypatch, capsys):
    monkeypatch.setattr(ui, "START_TIMEOUT_S", 0.1)
    port = free_port()
    assert cli.run(["ui", "--port", str(port)]) == 1
    assert "the MLflow server did not answer within 0 s" in capsys.readouterr().err
    assert f"--port {port}" not in commands()


def test_an_answer_that_is_an_error_is_an_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(ui, "START_TIMEOUT_S", 5.0)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)  # says 404 to /health
    with (
        HTTPServer(("127.0.0.1", 0), handler) as server,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process,
        TemporaryFile() as output,
    ):
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        ui._wait_until_it_answers(process, f"http://127.0.0.1:{server.server_port}", output)
        answering.join()
        process.kill()


def test_an_address_in_brackets_is_shown_whole(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://[fe80::1]:5000")
    assert cli.run(["ui"]) == 0
    assert "http://[fe80::1]:5000" in capsys.readouterr().out


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
