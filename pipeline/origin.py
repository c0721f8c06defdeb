"""Where a run comes from: commit of the code, host, and the Ray job that its driver is in."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from importlib import metadata
from pathlib import Path

# Ray sets it for the driver of a submitted job, in JSON; what is in it goes to every process.
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
JOB_ID = "job_submission_id"  # put there by Ray
COMMIT_KEY = "outerloop.commit"  # put there by `outerloop submit`, as is the next
PAGE_KEY = "outerloop.job_page"
GIT_TIMEOUT_S = 5.0


def origin_tags() -> dict[str, str]:
    """Return tags of a run: its host, the commit, and the Ray job, as far as they are known."""
    job = job_metadata()
    tags = {
        "outerloop.version": metadata.version("outerloop"),
        "outerloop.host": socket.gethostname(),
        "mlflow.source.git.commit": job.get(COMMIT_KEY) or git_commit(),
        "outerloop.ray_job": job.get(JOB_ID, ""),
        "outerloop.ray_job_page": job.get(PAGE_KEY, ""),
    }
    return {key: text for key, text in tags.items() if text}


def job_metadata() -> dict[str, str]:
    """Return what the Ray job that this process is the driver of says of itself; else nothing."""
    with contextlib.suppress(ValueError, AttributeError):  # no JSON, or of another shape
        said = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("metadata") or {}
        return {str(key): str(value) for key, value in said.items()}
    return {}


def git_commit() -> str:
    """Return the commit of outerloop's source, else that of this folder; empty if neither has one.

    "-dirty" follows if files that it tracks were changed since.
    """
    here = Path(__file__)
    if _git(here.parent, "ls-files", "--error-unmatch", here.name):
        return _commit(here.parent)
    return _commit(Path.cwd())


def _commit(folder: Path) -> str:
    commit = _git(folder, "rev-parse", "HEAD")
    changed = commit and _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *words: str) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S)
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""
