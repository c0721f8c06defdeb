"""`outerloop sync`: send MLflow what it has not got of runs that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from pipeline.runs import RunFolder
from pipeline.sync import Synced, sync, waiting_runs


def sync_runs(console: Console, names: Sequence[str]) -> dict[str, Any]:
    """Send what waits of the runs `names`, by default of all; exit code 1 if something is left."""
    runs = [RunFolder.open(name) for name in names] or waiting_runs()
    done: list[Synced] = []
    for run in runs:
        with console.status(f"sending {run.run_id}…"):
            done.append(sync(run))
        one = done[-1]
        line = f"{one.run_id}: {one.points:,} metric points and {one.items:,} other items sent to "
        console.print(line + one.address, soft_wrap=True, markup=False, highlight=False)
        if one.left:
            line = f"{one.run_id}: MLflow refuses {one.left:,} more; see the warning above"
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    if not runs:
        console.print("MLflow has all of every run")
    return {"runs": [asdict(one) for one in done], "exit_code": int(any(one.left for one in done))}
