"""Following a job: its log as it grows, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import warnings
from typing import Any

import aiohttp
from rich.console import Console

from jobs.cluster.client import JobServer, JobStatus
from jobs.cluster.entry import RESULT
from pipeline.errors import RunFailedError

LOOK_EVERY_S = 0.5
AGAIN_AFTER_S = 3.0
AWAY_TIMEOUT_S = 300.0  # for a server that went away to come back
MLFLOW_LINE = re.compile(r"^MLflow: (\S+)", re.M)


class JobLog:
    """What a job has said so far; its result is kept apart."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._num_taken = self._to_skip = 0  # characters
        self._rest = ""
        self.result: dict[str, Any] = {}
        self.mlflow = ""  # address of the run's page

    def begin_again(self) -> None:
        """Expect all that was said from the first word on: a new connection."""
        self._to_skip = self._num_taken

    def take(self, text: str) -> None:
        """Print the whole lines that are new."""
        new = text[self._to_skip :]
        self._to_skip = max(0, self._to_skip - len(text))
        self._num_taken += len(new)
        *lines, self._rest = (self._rest + new).split("\n")
        for line in lines:
            self._take_line(line)

    def end(self) -> None:
        """Print what is left without an end of line."""
        if self._rest:
            self._take_line(self._rest)
        self._rest = ""

    def _take_line(self, line: str) -> None:
        if line.startswith(RESULT):
            with contextlib.suppress(ValueError):  # torn
                self.result = json.loads(line.removeprefix(RESULT))
                return
        if found := MLFLOW_LINE.match(line):
            self.mlflow = found[1]
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def follow(server: JobServer, job_id: str, console: Console) -> JobLog:
    """Print the job's log until it has ended; return it.

    A server that goes away is waited for. RunFailedError if it does not come back.
    """
    log = JobLog(console)
    away_since: float | None = None
    while True:
        log.begin_again()
        try:
            asyncio.run(_tail(server, job_id, log))
            if JobStatus(server.find(job_id).status).is_terminal():
                log.end()
                return log
            away_since = None
        except (aiohttp.ClientError, RunFailedError, RuntimeError, OSError) as error:
            now = time.monotonic()
            if away_since is None:
                away_since = now
                console.print(f"the cluster at {server.address} does not answer; waiting for it")
            if now - away_since > AWAY_TIMEOUT_S:
                raise RunFailedError(
                    f"the cluster at {server.address} has not answered for {AWAY_TIMEOUT_S:.0f} s: "
                    f"{error}; its run may go on: outerloop jobs status {job_id}"
                ) from None
        time.sleep(AGAIN_AFTER_S if away_since is not None else LOOK_EVERY_S)


async def _tail(server: JobServer, job_id: str, log: JobLog) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of how Ray calls aiohttp
        async for text in server.client.tail_job_logs(job_id):
            log.take(text)
