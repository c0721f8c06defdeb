"""What there is in the home: a row for each run, read without torch and without trust."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

from pipeline.checkpoint import CheckpointStore
from pipeline.errors import BadInputError
from pipeline.runs import RunFolder, home, list_runs


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run at a glance."""

    run_id: str
    experiment: str
    method: str
    state: str  # running, finished, unfinished (resume it), damaged (its config.yaml)
    outer_steps: int  # kept in a checkpoint
    num_outer_steps: int  # that the run is to take
    begun: str  # local time at which it was started or resumed last


def overview() -> list[RunRow]:
    """Return the runs in the home, newest first."""
    return [_row(RunFolder(home() / run_id)) for run_id in list_runs()]


def _row(run: RunFolder) -> RunRow:
    config = _config(run)
    done = max(CheckpointStore(run.checkpoints, keep=2).steps(), default=0)
    last = int(config["num_steps"])
    begun = datetime.fromtimestamp(run.config.stat().st_mtime)
    return RunRow(
        run_id=run.run_id,
        experiment=config["name"],
        method=config["method"],
        state=_state(run, done, last) if last >= 0 else "damaged",
        outer_steps=done,
        num_outer_steps=last,
        begun=begun.strftime("%Y-%m-%d %H:%M"),
    )


def _config(run: RunFolder) -> Mapping[str, Any]:
    """Return the few keys that a row shows; of a file that is damaged, none."""
    try:
        tree = yaml.safe_load(run.config.read_text(encoding="utf-8"))
        return {
            "name": str(tree["name"]),
            "method": str(tree["algorithm"]["name"]),
            "num_steps": int(tree["meta"]["num_steps"]),
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError):
        return {"name": "?", "method": "?", "num_steps": -1}


def _state(run: RunFolder, done: int, last: int) -> str:
    if _in_use(run):
        return "running"
    with contextlib.suppress(BadInputError):
        # The summary is written after the meta-test, with which a run ends.
        if run.read_summary().get("counts", {}).get("outer_steps") == last == done:
            return "finished"
    return "unfinished"


def _in_use(run: RunFolder) -> bool:
    try:
        with (run.path / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
