"""What there is in the home: a row for each run, read without torch and without trust."""

from __future__ import annotations

import contextlib
import fcntl
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

from pipeline.checkpoint import CheckpointStore
from pipeline.runs import RunFolder, home, list_runs


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run at a glance."""

    run_id: str
    experiment: str
    method: str
    state: str  # running, finished, unfinished (resume it), damaged (a file of it)
    outer_steps: int  # kept in a checkpoint
    num_outer_steps: int | None  # that the run is to take; None where it does not say
    begun: str  # local time at which it was started or resumed last


def overview() -> list[RunRow]:
    """Return the runs in the home, newest first."""
    return [_row(RunFolder(home() / run_id)) for run_id in list_runs()]


def _row(run: RunFolder) -> RunRow:
    try:
        return _read(run)
    except Exception:  # whatever is wrong in one run's files, the others are listed
        return RunRow(run.run_id, "?", "?", "damaged", _steps_kept(run), None, "?")


def _read(run: RunFolder) -> RunRow:
    tree = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    done = _steps_kept(run)
    last = int(tree["meta"]["num_steps"])
    begun = datetime.fromtimestamp(run.config.stat().st_mtime)
    return RunRow(
        run_id=run.run_id,
        experiment=_text(tree["name"]),
        method=_text(tree["algorithm"]["name"]),
        state=_state(run, done, last),
        outer_steps=done,
        num_outer_steps=last,
        begun=begun.strftime("%Y-%m-%d %H:%M"),
    )


def _steps_kept(run: RunFolder) -> int:
    try:
        return max(CheckpointStore(run.checkpoints, keep=2).steps(), default=0)
    except OSError:  # a folder that cannot be read
        return 0


def _text(value: Any) -> str:
    """Return `value` if it is a text: that of a damaged file may be a tree without end."""
    if not isinstance(value, str):
        raise TypeError
    return value


def _state(run: RunFolder, done: int, last: int) -> str:
    if _in_use(run):
        return "running"
    # The summary is written after the meta-test, with which a run ends.
    if run.read_summary().get("counts", {}).get("outer_steps") == last == done:
        return "finished"
    return "unfinished"


def _in_use(run: RunFolder) -> bool:
    with contextlib.suppress(OSError), (run.path / ".lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
