"""What works on this machine, and how to mend what does not."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.errors import BadInputError
from pipeline.runs import home

GIB = 1 << 30
MIN_MEMORY_GIB = 4  # two workers, the parameter server and Ray itself take about 3
MIN_DISK_GIB = 2
RAY_TIMEOUT_S = 90.0
SERVER_TIMEOUT_S = 5.0
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}

TRY_RAY = """
import ray
from pipeline.cluster import connect
from pipeline.config import build_experiment
connect(build_experiment({"workers": {"count": 1}}, "doctor"))
assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the report."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


def report(console: Console) -> dict[str, Any]:
    """Run every check and print a row for each; the exit code is 1 if one failed."""
    checks = []
    with console.status("checking…"):
        for check in all_checks():
            checks.append(check)
    table = Table(title="This machine", title_justify="left")
    for column in ("check", "", "found", "how to mend"):
        table.add_column(column, overflow="fold")
    for check in checks:
        status = Text(check.status, style=COLOURS[check.status])
        table.add_row(Text(check.name), status, Text(check.found), Text(check.mend))
    console.print(table)
    failed = any(check.status == "fail" for check in checks)
    return {"checks": [asdict(check) for check in checks], "exit_code": int(failed)}


def all_checks() -> Iterator[Check]:
    """Yield the checks, the quick ones first."""
    yield Check("Python", "ok", f"{platform.python_version()} on {platform.machine()}")
    for package in ("torch", "ray", "mlflow"):
        yield Check(package, "ok", version(package))
    yield _memory()
    yield _devices()
    yield from _data_sets()
    yield _guarded("run folder", _home)
    yield _guarded("MLflow store", _store)
    yield _disk()
    yield try_ray(RAY_TIMEOUT_S)


def _memory() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    found = f"{cores} cores, {memory:.1f} GiB memory"
    if memory < MIN_MEMORY_GIB:
        return Check("processor", "warn", found, "use workers.count=0 or 1")
    return Check("processor", "ok", found)


def _devices() -> Check:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("GPU", "ok", ", ".join(names) or "none: workers run on the processor")


def _data_sets() -> Iterator[Check]:
    from pipeline.data import DATASETS
    from pipeline.data.paths import data_root

    for name, dataset in DATASETS.items():
        try:
            dataset(data_root()).identity()
        except BadInputError:
            mend = f"outerloop data fetch {name}, or set OUTERLOOP_DATA"
            yield Check(f"data: {name}", "warn", f"not in {data_root()}", mend)
        else:
            where = str(data_root() / name) if dataset.files else "made from installed fonts"
            yield Check(f"data: {name}", "ok", where)


def _guarded(name: str, check: Callable[[], str]) -> Check:
    """Return what `check` finds; an OSError or a database's error is a failure."""
    try:
        return Check(name, "ok", check())
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Check(name, "fail", reason, "set OUTERLOOP_HOME or MLFLOW_TRACKING_URI")


def _home() -> str:
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=home()):
        return f"{home()} can be written"


def _store() -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
    if uri.startswith(("http://", "https://")):
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SERVER_TIMEOUT_S):
            return f"{uri} answers"
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.exists():
        with closing(sqlite3.connect(path, timeout=SERVER_TIMEOUT_S)) as store:
            store.execute("BEGIN IMMEDIATE")  # takes the lock for writing, changes nothing
            store.execute("ROLLBACK")
        return f"{uri} can be written"
    return f"{uri} (made by the first run)"


def _disk() -> Check:
    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    if free < MIN_DISK_GIB:
        return Check("disk", "warn", f"{free:.1f} GiB free", f"make room at {folder}")
    return Check("disk", "ok", f"{free:.1f} GiB free at {folder}")


def try_ray(timeout_s: float) -> Check:
    """Start Ray and run one task, in a process of its own that is ended after `timeout_s`."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", TRY_RAY],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what it starts ends with it
    )
    mend = "see /tmp/ray/session_latest/logs; workers.count=0 runs without Ray"
    try:
        _, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Check("Ray starts", "fail", f"no answer in {timeout_s:.0f} s", mend)
    if process.returncode:
        last = (errors.strip().splitlines() or ["it died without a word"])[-1]
        return Check("Ray starts", "fail", last[:200], mend)
    return Check("Ray starts", "ok", "a task ran")
