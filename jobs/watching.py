"""`outerloop watch`: ask the pipeline for a video, and say what it shows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.progress import shown
from pipeline.runs import RunFolder
from pipeline.watch_session import WatchRequest
from pipeline.watch_session import watch as watch_run


def watch(
    console: Console,
    run: str,
    task: str,
    method: str,
    num_steps: int | None,
    max_seconds: float,
    output: Path | None,
) -> dict[str, Any]:
    """Write the video; return what the episode came to."""
    folder = RunFolder.open(run)
    with shown(console) as progress:
        request = WatchRequest(task, method, num_steps, max_seconds, output)
        result = watch_run(folder, request, progress)
    ended = "" if result.has_ended else f", cut off after {result.seconds:.0f} s"
    console.print(
        f"{result.method} on {result.task} after {result.inner_steps:,} inner steps "
        f"({result.env_steps:,} env steps): return {result.episode_return:,.1f} in "
        f"{result.length:,} actions{ended}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"video: {result.video}", soft_wrap=True, markup=False)
    values = asdict(result)
    return {"run_id": folder.run_id, "return": values.pop("episode_return"), **values}
