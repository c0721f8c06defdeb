"""The driver of a job, on the cluster: has `outerloop train` run, again if it dies.

    python -m jobs.cluster.entry MAX_RETRIES WORDS…

WORDS are those of a `train` command that goes on with its run if it is there: with --run-id, or
--resume. Ray never starts a job's driver again. What ended by itself, in good order, stays ended:
a finished run, bad input, an interruption.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.runs import home

RESULT = "result: "  # before the JSON that `train` ends with, in the job's log
IN_ORDER = (0, 2, 130)
FIRST_WAIT_S, MAX_WAIT_S = 2.0, 60.0


class Entry:
    """Runs the command; stops when it is told to, between two attempts too."""

    def __init__(self) -> None:
        self._is_asked_to_stop = False

    def run(self, max_retries: int, words: Sequence[str]) -> int:
        """Return the exit code of the last attempt."""
        # The server signals every process of the job: `train` has its own answer to it.
        signal.signal(signal.SIGTERM, self._stop)
        in_vain = 0
        while True:
            before = _progress(words)
            code = self._attempt(words)
            in_vain = in_vain + 1 if _progress(words) == before else 1
            if code in IN_ORDER or self._is_asked_to_stop:
                return code
            how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
            if in_vain > max_retries:
                print(f"the driver ended ({how}): job.max_retries={max_retries} used up")
                return 1
            wait_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** (in_vain - 1))
            print(f"the driver ended ({how}): started again in {wait_s:g} s", flush=True)
            time.sleep(wait_s)
            if self._is_asked_to_stop:
                return 130

    def _stop(self, number: int, frame: object) -> None:
        self._is_asked_to_stop = True

    def _attempt(self, words: Sequence[str]) -> int:
        command = [sys.executable, "-m", "jobs.cli", "--json", "train", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(f"{RESULT}{line}" if _is_object(line) else line, end="", flush=True)
            return process.wait()


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _progress(words: Sequence[str]) -> object:
    """Return what changes when the run gets on: its newest checkpoint, outer or within a task."""
    run = words[words.index("--run-id" if "--run-id" in words else "--resume") + 1]
    folder = home() / Path(run).name
    newest = [
        entry.stat().st_mtime_ns
        for part in ("checkpoints", "snapshots", "in_flight")
        if (folder / part).is_dir()
        for entry in os.scandir(folder / part)
    ]
    return max(newest, default=0)


if __name__ == "__main__":
    sys.exit(Entry().run(int(sys.argv[1]), sys.argv[2:]))
