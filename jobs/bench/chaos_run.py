"""One run put through chaos, until it has ended well: its faults, and what came of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from jobs.bench.chaos_processes import AGGREGATOR, WORKER, Driver, Nodes, Server
from pipeline.checkpoint import CheckpointStore
from pipeline.errors import RunFailedError

TASK_TIMEOUT_S = 3.0
AWAY_S = 3.0  # of a server or a node that was killed
GONE_S = 60.0  # for what a dead driver leaves behind to end
MAX_RUN_S = 1800.0


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    faults: Counter[str] = field(default_factory=Counter)
    wall_s: float = 0.0
    said: dict[str, object] = field(default_factory=dict)  # the JSON of its last process
    stops: list[str] = field(default_factory=list)  # lines with which it stopped by itself
    orphans: int = 0  # actors that outlived a dead driver by a minute


class ChaosRun:
    """A driver, and a source of faults that strikes it every few seconds."""

    def __init__(
        self,
        words: list[str],
        home: Path,
        log: Path,
        server: Server,
        nodes: Nodes | None,
        seed: int,
        mark: dict[str, str],
    ) -> None:
        """Prepare a run of `outerloop train` with `words`, in a home of its own.

        What it says goes to `log`, which is on another disk than the one that is filled. `mark` is
        of a Ground.
        """
        self._mark = mark
        self._words = words
        self._home = home
        self._server = server
        self._nodes = nodes
        self._random = random.Random(seed)
        self._log = log
        self.outcome = Outcome()
        self._driver: Driver

    def run(self, max_faults: int, kinds: list[str], mean_wait_s: float) -> Outcome:
        """Run to the end, with at most `max_faults` faults of `kinds` on the way."""
        self._start()
        try:
            return self._until_end(max_faults, kinds, mean_wait_s)
        finally:
            self._driver.end()

    def _until_end(self, max_faults: int, kinds: list[str], mean_wait_s: float) -> Outcome:
        begun, faults, kind = time.monotonic(), self.outcome.faults, ""
        while time.monotonic() - begun < MAX_RUN_S:
            wait_s = self._random.expovariate(1 / mean_wait_s)
            code = self._driver.wait(wait_s if faults.total() < max_faults else MAX_RUN_S)
            if code == 0:
                self.outcome.wall_s = time.monotonic() - begun
                self.outcome.said = json.loads(self._driver.last_line())
                return self.outcome
            if code is not None:
                self._stopped()
            elif self._folder() is not None:
                # What cannot be done yet is done later: each kind has the same chance.
                kind = kind or self._random.choice(kinds)
                if self.faults()[kind]():
                    faults[kind] += 1
                    kind = ""
        raise RunFailedError(f"bench chaos: a run did not end in {MAX_RUN_S:g} s; see {self._log}")

    def faults(self) -> dict[str, Callable[[], bool]]:
        """Return what can happen, by name; each says whether it could be done now."""
        return {
            "worker_killed": lambda: self._kill(WORKER),
            "aggregator_killed": lambda: self._kill(AGGREGATOR),
            "worker_stopped": self._stop_worker,
            "driver_killed": self._kill_driver,
            "checkpoint_damaged": self._damage_checkpoint,
            "server_killed": self._kill_server,
            "disk_full": self._fill_disk,
            "node_killed": self._kill_node,
        }

    def _folder(self) -> Path | None:
        """Return the run's folder, once it is there."""
        return next((path.parent for path in self._home.glob("*/config.yaml")), None)

    def _start(self) -> None:
        folder = self._folder()
        words = ["train", "--resume", folder.name] if folder else ["train", *self._words]
        self._driver = Driver(words, self._home, self._log, self._nodes, self._mark)

    def _stopped(self) -> None:
        """Resume a run that stopped by itself, or give up."""
        line = self._driver.last_line()
        self.outcome.stops.append(line[:300])
        if self._driver.exit_code != 1 or "resume" not in line:
            raise RunFailedError(f"bench chaos: a run ended with {line[:300]}; see {self._log}")
        self._start()

    def _kill(self, title: str, number: signal.Signals = signal.SIGKILL) -> bool:
        actors = self._driver.actors(title)
        if not actors:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            self._random.choice(actors).send_signal(number)
            return True
        return False

    def _stop_worker(self) -> bool:
        """Stop a worker for longer than is waited for it."""
        actors = self._driver.actors(WORKER)
        if not actors:
            return False
        worker = self._random.choice(actors)
        try:
            worker.suspend()
        except psutil.NoSuchProcess:
            return False
        self._driver.wait(2 * TASK_TIMEOUT_S)
        with contextlib.suppress(psutil.NoSuchProcess):  # replaced, as it should be
            worker.resume()
        return True

    def _kill_driver(self) -> bool:
        """Kill the driver and resume at once; see that what it left behind ends."""
        others = self._driver.kill()
        self._start()
        _, alive = psutil.wait_procs(others, GONE_S)
        self.outcome.orphans += len(alive)
        for one in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        return True

    def _damage_checkpoint(self) -> bool:
        """Flip a bit in the newest checkpoint of a killed driver, if there is one before it."""
        folder = self._folder()
        assert folder is not None
        checkpoints = folder / "checkpoints"
        if len(CheckpointStore(checkpoints, keep=2).steps()) < 2:
            return False
        self._driver.kill()
        newest = CheckpointStore(checkpoints, keep=2).steps()[-1]
        path = self._random.choice(sorted((checkpoints / f"step-{newest:06d}").iterdir()))
        content = bytearray(path.read_bytes())
        content[self._random.randrange(len(content))] ^= 1 << self._random.randrange(8)
        path.write_bytes(content)
        self._start()
        return True

    def _kill_server(self) -> bool:
        self._server.kill()
        self._driver.wait(AWAY_S)
        self._server.start()
        return True

    def _fill_disk(self) -> bool:
        """Leave no room where the run is, until it has stopped or a while is over."""
        ballast = self._home.parent / "ballast"
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while True:
                free = os.statvfs(ballast)
                size = free.f_bavail * free.f_frsize
                if not size:
                    break
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
        try:
            self._driver.wait(2 * AWAY_S)
        finally:
            ballast.unlink()
        return True

    def _kill_node(self) -> bool:
        assert self._nodes is not None
        self._nodes.kill_second()
        self._driver.wait(AWAY_S)
        self._nodes.start_second()
        return True
