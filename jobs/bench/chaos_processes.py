"""The processes of a run that is put through chaos: its driver, an MLflow server, Ray's nodes."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from jobs.ui import OURS, QUIET
from pipeline.errors import RunFailedError
from pipeline.orphans import TITLES

ANSWER_TIMEOUT_S = 120.0
STARTED = "Ray runtime started."
WORKER, AGGREGATOR = TITLES


class Group:
    """A command with all its children, ended as one."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        """Start it; what it says goes to `log`."""
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def family(self) -> list[psutil.Process]:
        """Return it and its children, as far as they live."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """SIGKILL all of it."""
        for one in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()


class Server:
    """An MLflow server over a database of its own, at a port that stays."""

    def __init__(self, folder: Path, mark: dict[str, str] | None = None) -> None:
        """Prepare it; it runs, and answers, while its block does. `mark` is of a Ground."""
        folder.mkdir()
        self._environment = QUIET | OURS | (mark or {})
        self._folder = folder
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        self._group: Group | None = None

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, again."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        self._group = Group(command, self._folder / "log.txt", self._environment)
        wait_until(self._answers, "the MLflow server does not answer")

    def kill(self) -> None:
        """SIGKILL it."""
        if self._group:
            self._group.kill()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Nodes:
    """Two nodes of Ray on this machine, of which the second can be killed."""

    def __init__(
        self,
        folder: Path,
        num_cpus: int,
        has_jobs: bool = False,
        mark: dict[str, str] | None = None,
    ) -> None:
        """Prepare a head of half the CPUs and a node of the other half; they run in a block.

        With `has_jobs` the head takes jobs at `job_server`. `mark` is of a Ground.
        """
        folder.mkdir()
        self._folder = folder
        self._num_cpus = num_cpus
        self._port = free_port()
        self.job_server = f"http://127.0.0.1:{free_port()}" if has_jobs else ""
        self._groups: list[Group] = []
        self._num_starts = 0
        self.address = f"127.0.0.1:{self._port}"
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment |= mark or {}

    def __enter__(self) -> Nodes:
        try:
            self._start("--head", f"--port={self._port}", *self._head_options())
            self.start_second()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._groups:
            group.kill()

    def start_second(self) -> None:
        """Start the second node, again; it has joined then."""
        self._start(f"--address={self.address}", *self._own_folder("second"))

    def kill_second(self) -> None:
        """SIGKILL every process of the second node."""
        self._groups.pop().kill()

    def family(self) -> list[psutil.Process]:
        """Return the processes of both."""
        return [process for group in self._groups for process in group.family()]

    def _head_options(self) -> list[str]:
        if not self.job_server:
            return ["--include-dashboard=false"]
        port = self.job_server.rpartition(":")[2]
        options = ["--include-dashboard=true", "--dashboard-host=127.0.0.1"]
        return [*options, f"--dashboard-port={port}", *self._own_folder("head")]

    def _own_folder(self, name: str) -> list[str]:
        """Keep nodes that run jobs apart.

        In a folder that they share each removes what the other unpacked of a job, and a job's
        driver is told the address of whichever cluster was started last on this machine.
        """
        return [f"--temp-dir={self._folder / name}"] if self.job_server else []

    def _start(self, *options: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        command += options
        command += [f"--num-cpus={self._num_cpus // 2}", "--disable-usage-stats"]
        command += [f"--dashboard-agent-listen-port={free_port()}"]  # by default the same for all
        log = self._folder / "log.txt"
        self._groups.append(Group(command, log, self.environment))
        self._num_starts += 1
        wait_until(
            lambda: log.read_text().count(STARTED) >= self._num_starts, f"no node; see {log}"
        )


class Driver:
    """`outerloop train` or `train --resume` as a process."""

    def __init__(
        self, words: list[str], home: Path, log: Path, nodes: Nodes | None, mark: dict[str, str]
    ) -> None:
        """Start it; its own output and errors go to `log`. `mark` is of a Ground."""
        self._log = log
        self._from = log.stat().st_size if log.exists() else 0
        self._nodes = nodes
        command = [sys.executable, "-m", "jobs.cli", "--json", *words]
        environment = nodes.environment if nodes else {}
        self._group = Group(command, log, environment | mark | {"OUTERLOOP_HOME": str(home)})

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._group.process.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end; return its exit code, or None if it does not come."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._group.process.wait(timeout_s)
        return self.exit_code

    def actors(self, title: str) -> list[psutil.Process]:
        """Return the processes of actors whose title begins so, e.g. WORKER."""
        found = []
        for one in self._group.family() + (self._nodes.family() if self._nodes else []):
            with contextlib.suppress(psutil.Error):
                if " ".join(one.cmdline()).startswith(title):
                    found.append(one)
        return found

    def kill(self) -> list[psutil.Process]:
        """SIGKILL the driver alone; return the actors that it leaves behind."""
        others = [actor for title in TITLES for actor in self.actors(title)]
        self._group.process.send_signal(signal.SIGKILL)
        self._group.process.wait()
        return others

    def end(self) -> None:
        """SIGKILL the driver and all its children."""
        self._group.kill()

    def last_line(self) -> str:
        """Return the last line that it said."""
        with self._log.open("rb") as file:
            file.seek(self._from)
            lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return once `condition` holds; RunFailedError, with `what`, if it never does."""
    limit = time.monotonic() + ANSWER_TIMEOUT_S
    while not condition():
        if time.monotonic() > limit:
            raise RunFailedError(f"bench chaos: {what}")
        time.sleep(0.1)
