"""`outerloop verify`: have the pipeline check a run's folder, and print what is wrong with it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from jobs.tables import packed
from pipeline.runs import RunFolder
from pipeline.verify import verify_run

LINE_WIDTH = 78


def verify(console: Console, run: str, mlflow_timeout_s: float) -> dict[str, Any]:
    """Print a line for each problem; the exit code is 1 if there is one."""
    folder = RunFolder.open(run, may_be_damaged=True)
    with console.status("checking…"):
        verdict = verify_run(folder, mlflow_timeout_s)
    report = verdict.report
    for word, colour, lines in (
        ("problem", "red", report.problems),
        ("note", "yellow", report.notes),
        ("not checked", "yellow", report.not_checked),
    ):
        for line in lines:
            console.print(Text(f"{word}: ", style=colour) + Text(line), soft_wrap=True)
    counts = [f"{name.replace('_', ' ')} {count:,}" for name, count in report.checked.items()]
    for line in packed(counts, LINE_WIDTH):
        console.print(Text(line), soft_wrap=True)
    ok, number = not report.problems, len(report.problems)
    found = "no problem" if ok else "1 problem" if number == 1 else f"{number} problems"
    console.print(f"run {folder.run_id} ({verdict.state}): {found}", markup=False, soft_wrap=True)
    return {
        "run_id": folder.run_id,
        "run_dir": folder.path,
        "state": verdict.state,
        "mlflow_status": verdict.status,
        "ok": ok,
        "problems": report.problems,
        "notes": report.notes,
        "not_checked": report.not_checked,
        "checked": dict(report.checked),
        "exit_code": 0 if ok else 1,
    }
