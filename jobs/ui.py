"""The MLflow pages of the run store."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import Any

from rich.console import Console

from pipeline.errors import BadInputError, RunFailedError
from pipeline.runs import home

STORE = "mlflow.db"


def serve(console: Console, host: str, port: int) -> dict[str, Any]:
    """Run an MLflow server on the run store until it is interrupted.

    Where MLFLOW_TRACKING_URI names a server, that one is running already: only say where.

    Raises BadInputError for a port that is taken or a store that does not exist yet.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / STORE}"
    if uri.startswith(("http://", "https://")):
        console.print(f"The runs are tracked by the server at {uri}", soft_wrap=True)
        return {"address": uri, "tracking_uri": uri}
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (home() / STORE).exists():
        raise BadInputError(
            f"{home()}: there is no run yet; start with `outerloop train quickstart`, or set "
            "OUTERLOOP_HOME to the folder that holds the runs"
        )
    _check_free(host, port)
    address = f"http://{host}:{port}"
    console.print(f"MLflow pages of {uri}\nat {address} (Ctrl+C ends it)", soft_wrap=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    code = _run(command)
    if code:
        raise RunFailedError(f"the MLflow server ended with code {code}")
    return {"address": address, "tracking_uri": uri}


def _run(command: list[str]) -> int:
    """Run the command until it ends or Ctrl+C or SIGTERM ends it, which is no failure.

    The server has processes of its own, so it gets a process group, and all of it is ended.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **os.environ}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        signal.signal(signal.SIGTERM, before)


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInputError(
                f"{host}:{port}: cannot be served on: {error.strerror}; give another --port"
            ) from None
