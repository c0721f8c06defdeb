"""What there is in the home: a row for each run, read without torch and without trust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.budgets import spent
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
    begun: str  # local time at which it was made
    ended_by: str = ""  # of a finished one: meta.num_steps, or the budget that ended it before


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
    in_use = run.is_in_use()
    ended_by = "" if in_use else _ended_by(run.read_summary(), tree["meta"], done)
    return RunRow(
        run_id=run.run_id,
        experiment=_text(tree["name"]),
        method=_text(tree["algorithm"]["name"]),
        state="running" if in_use else "finished" if ended_by else "unfinished",
        outer_steps=done,
        num_outer_steps=last,
        begun=run.made().strftime("%Y-%m-%d %H:%M"),
        ended_by=ended_by,
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


def _ended_by(summary: dict[str, Any], meta: dict[str, Any], done: int) -> str:
    """Return the key that ended the run; empty if it has not come to its end.

    The summary is written after the meta-test, with which a run ends. One of before a checkpoint,
    or before a resumed run was given more to do, is of no end.
    """
    counts = summary.get("counts", {})
    if counts.get("outer_steps") != done:
        return ""
    return "meta.num_steps" if done == int(meta["num_steps"]) else spent(meta, counts)
