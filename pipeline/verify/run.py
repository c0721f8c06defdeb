"""A run's folder from end to end: each kind of thing in it, and whether they agree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import to_yaml
from pipeline.errors import BadInputError
from pipeline.runs import RunFolder
from pipeline.verify.checkpoints import check_best, check_checkpoints, check_kept
from pipeline.verify.evaluation import check_evaluations
from pipeline.verify.in_flight import check_in_flight
from pipeline.verify.lineage import check_lineage
from pipeline.verify.log import check_log, load_log
from pipeline.verify.origin import check_origin
from pipeline.verify.report import Report
from pipeline.verify.stored import Stored
from pipeline.verify.stored_points import check_points
from pipeline.verify.stored_things import check_things, load_sent
from pipeline.verify.subject import Sound, Subject, entries, leftovers
from pipeline.verify.summary import check_summary, read_summary
from pipeline.verify.tracking import (
    ask_mlflow,
    check_delivered,
    check_stored,
    read_target,
)
from pipeline.verify.trajectories import check_trajectories
from pipeline.verify.waiting import check_outbox

if TYPE_CHECKING:
    from pipeline.config import Experiment

MLFLOW_TIMEOUT_S = 60.0
NEVER_CHECKED = "plots, videos, snapshots and log.txt: nothing vouches for what is in them"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run's folder is like."""

    state: str  # running, finished, unfinished
    status: str  # of the run in MLflow; empty: not known
    report: Report


def verify_run(run: RunFolder, mlflow_timeout_s: float = MLFLOW_TIMEOUT_S) -> Verdict:
    """Check all that is in the run's folder, and what MLflow has of it; change nothing.

    Of a run that is under way, what comes before its newest checkpoint is checked. MLflow is asked
    for `mlflow_timeout_s` at most; 0: not at all.
    """
    is_live, stamp = run.is_in_use(), _lock_stamp(run)
    verdict = _verify(run, is_live, mlflow_timeout_s)
    if not is_live and (run.is_in_use() or _lock_stamp(run) != stamp):
        return _verify(run, True, mlflow_timeout_s)  # work on it began in the meantime
    return verdict


def _verify(run: RunFolder, is_live: bool, mlflow_timeout_s: float) -> Verdict:
    report, stored = Report(), None
    found: list[Sound] = []
    with report.safely("checkpoints"):
        found = check_checkpoints(run, is_live, report)
    experiment = _read_experiment(run, report)
    of_run, differing = check_origin(found, experiment, report)
    subject = Subject(run, is_live, experiment, of_run, read_summary(run, report), differing)
    _introduce(subject, report)
    no_folders = dict(_no_folders(run))
    with report.safely("checkpoints"):
        check_kept(subject, report)
    check_summary(subject, report)
    with report.safely("tracking"):
        stored = _check_tracking(subject, mlflow_timeout_s, report)
    with report.safely("evaluation"):
        check_evaluations(subject, report)
    with report.safely("in_flight"):
        check_in_flight(subject, report)
    check_lineage(subject, report)
    with report.safely("leftovers"):
        _check_leftovers(subject, report)
    _put_first(no_folders, report)
    report.skip(NEVER_CHECKED)
    return Verdict(subject.state, stored.run.status if stored else "", report)


def _check_tracking(subject: Subject, mlflow_timeout_s: float, report: Report) -> Stored | None:
    """Check the log, and MLflow and trajectories against it; return what MLflow has."""
    # In this order: a point is in the log before it is in MLflow, and there before it is marked.
    target = read_target(subject, report)
    sent = load_sent(subject, target, report)
    stored = ask_mlflow(subject, target, sent, mlflow_timeout_s, report)
    log = load_log(subject, target.delivered, report)
    if log is not None:
        check_log(subject, log, report)
        check_best(subject, log.curves, report)
        check_delivered(target, log, report)
    if stored is not None and check_stored(subject, target, stored, report):
        if log is not None and not log.is_cut:
            check_points(subject, target, log, stored, report)
        check_things(subject, sent, stored, report)
    check_outbox(subject, report)
    check_trajectories(subject, log.curves if log else None, report)
    return stored


def _read_experiment(run: RunFolder, report: Report) -> Experiment | None:
    if not run.config.is_file():
        report.problems.append("config.yaml: is no file")
        return None
    try:
        experiment = run.read_experiment()
        if to_yaml(experiment) != run.config.read_text(encoding="utf-8"):
            report.note(
                "config.yaml: not as this version writes it; keys that it lacks have defaults"
            )
        return experiment
    except BadInputError as error:
        report.take("config.yaml", [str(error).replace(f"{run.path}/", "")])
    except Exception as error:  # what a damaged file may hold is without end
        report.take("config.yaml", [f"config.yaml: cannot be read ({error})"])
    return None


def _introduce(subject: Subject, report: Report) -> None:
    """Say what limits the check as a whole."""
    if subject.is_live:
        report.note(
            "a process is at work on the run: what comes before its newest checkpoint is checked"
        )
    if subject.newest is None:
        report.note("checkpoints: there is none yet that is sound")


def _folders(run: RunFolder) -> list[Path]:
    """Return the folders that the checks look into."""
    folders = [run.checkpoints, run.trajectories, run.evaluation, run.plots, run.in_flight]
    return [*folders, run.path / "tracking", run.path / "tracking" / "pending"]


def _no_folders(run: RunFolder) -> Iterator[tuple[str, str]]:
    """Yield what is there in place of a folder, and what it is."""
    for path in _folders(run):
        name = str(path.relative_to(run.path))
        if path.is_symlink() and not path.exists():
            yield name, "is a link to nothing"
        elif path.exists() and not path.is_dir():
            yield name, "is no folder"


def _put_first(no_folders: Mapping[str, str], report: Report) -> None:
    """Say what is no folder in place of what follows from it: that something is not in there."""
    follows = tuple(f"{name}{mark}" for name in no_folders for mark in "/:")
    left = [line for line in report.problems if not line.startswith(follows)]
    report.problems[:] = [f"{name}: {what}" for name, what in no_folders.items()] + left


def _check_leftovers(subject: Subject, report: Report) -> None:
    """Name what processes that died left half-written: it is in nobody's way."""
    if subject.is_live:
        return
    run = subject.run
    folders = [run.path, *_folders(run)]
    folders += [entry for entry in entries(run.in_flight) if entry.is_dir()]
    found = [subject.name(path) for folder in folders for path in leftovers(folder)]
    report.checked["leftovers"] = len(found)
    if found:
        report.note(f"half-written by a process that died, and not used: {', '.join(found)}")


def _lock_stamp(run: RunFolder) -> int:
    """Return when the lock was written last, which whoever begins work on the run does."""
    with contextlib.suppress(OSError):
        return (run.path / ".lock").stat().st_mtime_ns
    return 0
