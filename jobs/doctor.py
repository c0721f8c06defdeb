"""What works on this machine, and how to mend what does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from jobs import checks
from jobs.checks import Check

RAY_TIMEOUT_S = 90.0
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def report(console: Console) -> dict[str, Any]:
    """Run every check and print a line for each; the exit code is 1 if one failed."""
    done = []
    with console.status("checking…"):
        for check in all_checks():
            done.append(check)
            _print(console, check)
    failed = any(check.status == "fail" for check in done)
    return {"checks": [asdict(check) for check in done], "exit_code": int(failed)}


def all_checks() -> Iterator[Check]:
    """Yield the checks, the quick ones first."""
    yield checks.python()
    for package in ("torch", "ray", "mlflow"):
        yield checks.package(package)
    yield checks.processor()
    yield checks.devices()
    yield from checks.data_sets()
    yield checks.cache()
    yield checks.run_folder()
    yield checks.store()
    yield checks.disk()
    yield checks.try_ray(RAY_TIMEOUT_S)


def _print(console: Console, check: Check) -> None:
    """Print the check in lines and not in a table, which would cut its paths."""
    status = Text(f"{check.status:5}", style=COLOURS[check.status])
    console.print(status + Text(f"{check.name}: {check.found}"), soft_wrap=True)
    if check.mend:
        console.print(Text(f"     → {check.mend}"), soft_wrap=True)
