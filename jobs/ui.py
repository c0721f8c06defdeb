"""The MLflow pages of the run store."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import IO, Any

from rich.console import Console

from pipeline.delivery import is_http
from pipeline.errors import BadInputError, RunFailedError
from pipeline.interrupt import ending_as_ctrl_c
from pipeline.redaction import redact
from pipeline.runs import home
from pipeline.tracking import tracking_uri

STORE = "mlflow.db"
ASK_EVERY_S = 0.2
ASK_TIMEOUT_S = 5.0
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 10.0
ERROR_LINE = re.compile(r"^[\w.]*(?:Error|Exception)\b.*", re.MULTILINE)
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, for what we do not use
}
OURS = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # its last words are in its log
    "PYTHONSAFEPATH": "1",  # nothing is imported from the folder in which the user happens to be
}
UVICORN = f"--log-level warning --app-dir {os.devnull}"  # no line for every page; as PYTHONSAFEPATH


def serve(console: Console, host: str, port: int) -> dict[str, Any]:
    """Run an MLflow server on the run store until it is interrupted.

    Where MLFLOW_TRACKING_URI names a server, that one is running already: only say where.

    Raises BadInputError for a port that is taken or a store that does not exist yet;
    RunFailedError, with the server's last words, if it ends by itself.
    """
    uri = tracking_uri("", home())
    if is_http(uri):
        console.print(
            f"The runs are tracked by the server at {redact(uri)}", soft_wrap=True, markup=False
        )
        return {"address": redact(uri), "tracking_uri": redact(uri)}
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (home() / STORE).exists():
        raise BadInputError(
            f"{home()}: there is no run yet; start with `outerloop train quickstart`, or set "
            "OUTERLOOP_HOME to the folder that holds the runs"
        )
    _check_free(host, port)
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", UVICORN]
    with (
        tempfile.TemporaryFile() as output,
        contextlib.suppress(KeyboardInterrupt),
        _running(command, output) as process,
    ):
        with console.status("starting…"):
            _wait_until_it_answers(process, address, output)
        console.print(
            f"{address} shows {redact(uri)} (Ctrl+C ends it)", soft_wrap=True, markup=False
        )
        process.wait()
        raise RunFailedError(_last_words(process, output))
    return {"address": address, "tracking_uri": redact(uri)}


@contextmanager
def _running(command: list[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command during the block, in which signals that end it raise KeyboardInterrupt.

    The server has processes of its own, so it gets a process group, and all of it is ended: here,
    or by the leash if this process is killed.
    """
    with ending_as_ctrl_c():
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.leash", *command],
            env={**QUIET, **os.environ, **OURS},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=END_TIMEOUT_S)
            return


def _wait_until_it_answers(
    process: subprocess.Popen[bytes], address: str, output: IO[bytes]
) -> None:
    # Its own machine is asked, which no proxy that the environment names can reach.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    limit = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < limit:
        try:
            opener.open(f"{address}/health", timeout=ASK_TIMEOUT_S).close()
        except urllib.error.HTTPError:
            return  # an answer too
        except (OSError, HTTPException):
            time.sleep(ASK_EVERY_S)
        else:
            return
    raise RunFailedError(_last_words(process, output))


def _last_words(process: subprocess.Popen[bytes], output: IO[bytes]) -> str:
    output.seek(0)
    said = output.read().decode(errors="replace")
    lines = ERROR_LINE.findall(said) or said.strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    if process.returncode is None:
        return f"the MLflow server did not answer within {START_TIMEOUT_S:.0f} s: {redact(last)}"
    return f"the MLflow server ended with code {process.returncode}: {redact(last)}"


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = "in use by another program, perhaps another `outerloop ui`"
                raise BadInputError(f"port {port}: {reason}; give another with --port") from None
            raise BadInputError(
                f"{host}:{port}: cannot be served on: {error.strerror}; give another --host or "
                "--port"
            ) from None
