"""What is said when a job server is not there, is no Ray, or is another Ray."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager

import pytest
import ray

from jobs import cli


@contextmanager
def answering(status, body):
    """The address of a server that answers all with `body`, as something else than Ray may."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def line(capsys, *words):
    """The one line of a command that is refused."""
    assert cli.run([*words]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    return said


def test_a_cluster_of_another_version_is_refused_and_both_are_named(capsys):
    with answering(200, b'{"version": "4", "ray_version": "2.48.1"}') as address:
        said = line(capsys, "submit", "quickstart", "--address", address)
    assert f"the cluster at {address} has Ray 2.48.1, and here is Ray {ray.__version__}" in said
    assert "pip install 'ray[default]==2.48.1'" in said


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>", "is no Ray"),
        (200, b"[]", "is no Ray"),
        (200, b"{}", "is no Ray"),
        (200, b"\xff", "is no Ray"),
        (502, b"", "HTTP status 502"),
    ],
)
def test_what_is_no_job_server_is_told_from_one(status, body, reason, capsys):
    with answering(status, body) as address:
        said = line(capsys, "jobs", "list", "--address", address)
    assert f"--address '{address}': no job server answers there: " in said
    assert reason in said


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "expected the cluster's job server"),
        ("ray://head:10001", "expected the cluster's job server, e.g. http://head:8265"),
        ("head:8265", "expected the cluster's job server"),
        ("http://127.0.0.1:9", "Connection refused"),
        ("http://no-such-host.invalid:8265", "no job server answers there"),
        ("http://me:hunter2@head:8265", "holds a password"),
    ],
)
def test_addresses_that_lead_nowhere(address, said, capsys, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    told = line(capsys, "jobs", "list", "--address", address)
    assert said in told
    assert "hunter2" not in told


def test_the_address_may_come_from_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    assert "'http://127.0.0.1:9'" in line(capsys, "jobs", "status", "some")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected EXPERIMENT"),
        (["no-such-thing"], "unknown experiment 'no-such-thing'"),
        (["quickstart", "meta.nonsense=3"], "meta.nonsense"),
        (["quickstart", "--env", "WITHOUT"], "--env 'WITHOUT': expected NAME=VALUE"),
        (["quickstart", "--env", "AWS_SECRET_ACCESS_KEY=abcdef"], "looks like a secret"),
        (["quickstart", "--env", "X=http://me:hunter2@host/"], "looks like a secret"),
    ],
)
def test_what_is_wrong_here_is_said_before_the_cluster_is_asked(words, said, capsys):
    told = line(capsys, "submit", *words, "--address", "http://127.0.0.1:9")
    assert said in told
    assert "hunter2" not in told
    assert "abcdef" not in told


def test_a_password_in_the_tracking_address_does_not_leave_this_machine(capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@mlflow:5000")
    told = line(capsys, "submit", "quickstart", "--address", "http://127.0.0.1:9")
    assert "MLFLOW_TRACKING_URI: looks like a secret" in told
    assert "hunter2" not in told
