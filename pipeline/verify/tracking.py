"""Where the run is tracked, and whether MLflow knows it there."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import BadInputError
from pipeline.files import read_object
from pipeline.redaction import redact
from pipeline.runs import home
from pipeline.sent_record import Sent
from pipeline.tracking import tracking_uri
from pipeline.tracking_marks import (
    DELIVERED,
    FETCHED,
    TARGET,
    offset_in,
    steps_in,
    wrong_in_target,
)
from pipeline.verify.curves import Log
from pipeline.verify.points import Before
from pipeline.verify.report import Report, one_line
from pipeline.verify.stored import (
    DamagedStoreError,
    NoAnswerError,
    NotInMlflowError,
    Stored,
    fetch,
)
from pipeline.verify.subject import Subject

FOLDER = "tracking"
HIDDEN = "***"  # in place of a password
HOW_TO_MEND_IT = (
    "restore it from a backup; without one, remove it and the run's tracking/target.json: then "
    "the run is a new one in MLflow when it is resumed"
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the run is tracked, and how far that has come."""

    uri: str = ""  # without password
    run_id: str = ""  # empty: MLflow never answered
    tracking_id: str = ""
    delivered: int = 0  # bytes of metrics.jsonl
    before: Before = field(default_factory=Before)


def read_target(subject: Subject, report: Report) -> Target:
    """Return what the marks in tracking/ say; problems, if they are damaged."""
    found: dict[str, Any] = {}
    report.take(FOLDER, _target_problems(subject, found))
    return Target(**found)


def _target_problems(subject: Subject, found: dict[str, Any]) -> Iterator[str]:
    target = yield from _object(subject, TARGET)
    for wrong in wrong_in_target(target) if target is not None else ():
        yield f"{FOLDER}/{TARGET}: {wrong}"
    for key in ("uri", "run_id", "tracking_id"):
        if isinstance(value := (target or {}).get(key), str):
            found[key] = value
    delivered = yield from _object(subject, DELIVERED)
    if delivered is not None:
        found["delivered"] = offset_in(delivered) or 0
        if offset_in(delivered) is None:
            yield f"{FOLDER}/{DELIVERED}: offset is {delivered.get('offset')!r:.40}"
        elif not (subject.run.path / FOLDER / TARGET).exists():
            yield f"{FOLDER}/{TARGET}: is missing, and {found['delivered']} bytes were sent"
    fetched = yield from _object(subject, FETCHED)
    if fetched is not None:
        steps = steps_in(fetched)
        found["before"] = Before(True, steps or {}, is_known=steps is not None)
        if steps is None and fetched:
            yield f"{FOLDER}/{FETCHED}: steps is {fetched.get('steps')!r:.40}"


def _object(subject: Subject, name: str) -> Generator[str, None, dict[str, Any] | None]:
    """Return the content of a mark; None if there is none, with a problem if it is damaged."""
    try:
        return read_object(subject.run.path / FOLDER / name)
    except FileNotFoundError:
        return None
    except ValueError as error:
        yield f"{FOLDER}/{name}: {error}"
        return None


def ask_mlflow(
    subject: Subject, target: Target, sent: Sent, timeout_s: float, report: Report
) -> Stored | None:
    """Return the run as MLflow has it; None, with a word on why, if that is not known."""
    if not target.run_id:
        report.skip("MLflow: the run has not been there yet")
        return None
    shown = redact(target.uri)
    try:
        if not timeout_s:
            raise NoAnswerError("it was not to be asked")
        address, folders = _address(subject, target), sorted({_folder(n) for n in sent.artifacts})
        return fetch(address, target.run_id, folders, timeout_s)
    except NoAnswerError as error:
        report.skip(f"MLflow at {shown}: {error}")
    except DamagedStoreError as error:
        line = f"MLflow at {shown}, where the run was tracked, {error}"
        if target.before.is_known:
            report.problems.append(one_line(f"{line}; {HOW_TO_MEND_IT}"))
        else:
            report.skip(line)
    except NotInMlflowError:
        line = f"MLflow at {shown} has no run {target.run_id}"
        if target.before.is_known:
            report.take("MLflow", [line])
        else:  # its store may have gone with the machine
            report.note(f"{line}; it gets one when the run is gone on with")
    return None


def _folder(artifact: str) -> str:
    return artifact.rpartition("/")[0]


def _address(subject: Subject, target: Target) -> str:
    """Return the address where the run was tracked last, with its password if it has one."""
    configured = subject.experiment.tracking.uri if subject.experiment else ""
    with contextlib.suppress(BadInputError):  # a run could not be tracked there, but this one was
        uri = tracking_uri(configured, home())
        if redact(uri) == target.uri:
            return uri
    if HIDDEN in target.uri:
        raise NoAnswerError("its password is not known here; set MLFLOW_TRACKING_URI")
    return target.uri


def check_delivered(target: Target, log: Log, report: Report) -> None:
    """Check the mark up to which points were sent."""
    if log.is_cut:
        report.problems.append(
            f"{FOLDER}/delivered.json: {target.delivered} bytes of metrics.jsonl were sent, and it "
            f"has {log.size}: points are lost here that MLflow has"
        )
    elif not log.delivered_ends_a_line:
        report.problems.append(f"{FOLDER}/delivered.json: its mark is within a line")


def check_stored(subject: Subject, target: Target, stored: Stored, report: Report) -> bool:
    """Check that MLflow's run is this one; whether it is worth looking at what it has."""
    if stored.run.is_deleted:
        report.problems.append(f"MLflow: run {target.run_id} was deleted there")
    if target.tracking_id and stored.run.tracking_id != target.tracking_id:
        report.problems.append(f"MLflow: run {target.run_id} is not this one, but another")
        return False
    is_done = stored.run.status == "FINISHED" and not subject.is_live
    if is_done and not subject.run.summary.exists() and not target.before.was_fetched:
        report.problems.append(
            "summary.json: is missing, and by MLflow the run has come to its end"
        )
    has_ended = subject.is_finished and stored.run.status == "FINISHED"
    if not has_ended and not (subject.is_live and stored.run.status == "RUNNING"):
        report.note(f"MLflow: the run's status is {stored.run.status}, and it is {subject.state}")
    return True
