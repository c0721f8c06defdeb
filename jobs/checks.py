"""What a run needs of a machine, thing by thing, and how to mend what is not there."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pipeline.caches import why_unwritable
from pipeline.delivery import is_http
from pipeline.errors import BadInputError
from pipeline.reasons import plain_reason
from pipeline.redaction import redact
from pipeline.runs import home
from pipeline.tracking import tracking_uri
from pipeline.tracking_address import SQLITE

GIB = 1 << 30
MIN_MEMORY_GIB = 4  # two workers, the parameter server and Ray itself take about 3
MIN_DISK_GIB = 2
SERVER_TIMEOUT_S = 5.0
WITHOUT_RAY = "workers.count=0 runs without"
ERROR_CLASS = re.compile(r"^[\w.]+(?:Error|Exception): ")

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


def python() -> Check:
    """Say which Python this is."""
    return Check("Python", "ok", f"{platform.python_version()} on {platform.machine()}")


def package(name: str) -> Check:
    """Say which version of the package is installed."""
    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "fail", "not installed", "make setup, or pip install outerloop anew")


def processor() -> Check:
    """Count cores and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    found = f"{cores} cores, {memory:.1f} GiB memory"
    if memory < MIN_MEMORY_GIB:
        return Check("processor", "warn", found, "use workers.count=0 or 1")
    return Check("processor", "ok", found)


def devices() -> Check:
    """Name the GPUs that torch sees."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("GPU", "ok", ", ".join(names) or "none: workers run on the processor")


def data_sets() -> Iterator[Check]:
    """Check each data set's files; one that is not there is needed by some experiments only."""
    from pipeline.data.fetch import DatasetRow, list_datasets
    from pipeline.data.image_set_files import ImageSetRow, list_image_sets
    from pipeline.data.paths import data_root

    rows: list[DatasetRow | ImageSetRow] = [*list_datasets(data_root())]
    for row in [*rows, *list_image_sets(data_root())]:
        name = f"data: {row.name}"
        if row.present:
            yield Check(name, "ok", row.where)
        else:
            found, _, mend = row.problem.partition("; ")
            yield Check(name, "fail" if row.size_bytes else "warn", found, mend)


def cache() -> Check:
    """Try to write where decoded data sets go."""
    from pipeline.data.paths import cache_root

    return _folder("cache", cache_root(), "OUTERLOOP_CACHE")


def run_folder() -> Check:
    """Try to write where runs go."""
    return _folder("run folder", home(), "OUTERLOOP_HOME")


def _folder(name: str, folder: Path, variable: str) -> Check:
    if reason := why_unwritable(folder):
        mend = f"set {variable} to a folder that can be written"
        return Check(name, "fail", f"{folder}: {reason}", mend)
    return Check(name, "ok", f"{folder} can be written")


def store() -> Check:
    """Try what MLflow's curves go to."""
    try:
        uri = tracking_uri("", home())
    except BadInputError as error:
        found, _, mend = str(error).partition("; ")
        return Check("MLflow store", "fail", found, mend)
    if is_http(uri):
        return _server(uri)
    if uri.startswith(SQLITE):
        return _database(Path(uri.removeprefix(SQLITE)))
    return Check("MLflow store", "warn", f"{redact(uri)}: a database server; not tried here")


def _server(uri: str) -> Check:
    parts = urlsplit(uri.rstrip("/"))
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    try:
        with urllib.request.urlopen(f"{bare}/health", timeout=SERVER_TIMEOUT_S):
            return Check("MLflow store", "ok", f"{redact(uri)} answers")
    except (OSError, HTTPException, ValueError) as error:
        mend = "start that server, or mend or unset MLFLOW_TRACKING_URI (training goes on without)"
        return Check("MLflow store", "fail", f"{redact(uri)}: {plain_reason(error)}", mend)


def _database(path: Path) -> Check:
    variable = "MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else "OUTERLOOP_HOME"
    elsewhere = f"set {variable} to a place that can be written"
    # The database's own journal is made beside it, so the folder has to be writable too.
    if reason := why_unwritable(path.parent):
        return Check("MLflow store", "fail", f"{path.parent}: {reason}", elsewhere)
    if not path.exists():
        return Check("MLflow store", "ok", f"{path} (made by the first run)")
    try:
        with closing(sqlite3.connect(path, timeout=SERVER_TIMEOUT_S)) as database:
            database.execute("BEGIN IMMEDIATE")  # takes the lock for writing, changes nothing
            database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        is_locked = "locked" in str(error)
        mend = "end the program that holds it" if is_locked else f"make it writable, or {elsewhere}"
        return Check("MLflow store", "fail", f"{path}: {error}", mend)
    except sqlite3.Error as error:
        mend = "put a backup in its place, or move it away: the next run makes a new one"
        return Check("MLflow store", "fail", f"{path}: {error}", mend)
    return Check("MLflow store", "ok", f"{path} can be written")


def disk() -> Check:
    """Measure the room where runs go."""
    folder = home()
    while not os.path.exists(folder):  # false, too, where it may not be looked for
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    found = f"{free:.1f} GiB free at {folder}"
    if free < MIN_DISK_GIB:
        return Check("disk", "warn", found, "make room, or set OUTERLOOP_HOME to another disk")
    return Check("disk", "ok", found)


def try_ray(timeout_s: float) -> Check:
    """Start Ray and run one task, in a process of its own that is ended after `timeout_s`."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-c", TRY_RAY],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what it starts ends with it
    )
    try:
        _, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Check("Ray starts", "fail", f"no answer in {timeout_s:.0f} s", _mend_ray(""))
    if process.returncode:
        last = (errors.strip().splitlines() or ["it died without a word"])[-1]
        found, _, _ = ERROR_CLASS.sub("", last).partition(f"; {WITHOUT_RAY}")
        return Check("Ray starts", "fail", found, _mend_ray(found))
    return Check("Ray starts", "ok", "a task ran")


def _mend_ray(error: str) -> str:
    if "AF_UNIX" in error or "[Errno" in error:
        return f"set RAY_TMPDIR to a short path that can be written; {WITHOUT_RAY} Ray"
    logs = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "session_latest" / "logs"
    without = f"{WITHOUT_RAY} Ray"
    return f"see {logs}; {without}" if logs.exists() else without
