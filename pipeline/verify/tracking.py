"""What was logged against what MLflow has."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import BadInputError
from pipeline.files import read_object
from pipeline.redaction import redact
from pipeline.resumable import RESUMABLE
from pipeline.runs import home
from pipeline.tracking import params_as_texts, tracking_uri
from pipeline.tracking_marks import (
    DELIVERED,
    FETCHED,
    TARGET,
    offset_in,
    steps_in,
    wrong_in_target,
)
from pipeline.verify.curves import Curve, Log
from pipeline.verify.log import ALWAYS, ALWAYS_ASYNC, LIVE
from pipeline.verify.points import Before, differences
from pipeline.verify.report import Report, few, ranges
from pipeline.verify.stored import NoAnswerError, NotInMlflowError, Stored, fetch
from pipeline.verify.subject import Subject

if TYPE_CHECKING:
    from pipeline.config import Experiment

FOLDER = "tracking"
NOT_OURS = "system/"  # metrics that MLflow adds by itself
HIDDEN = "***"  # in place of a password


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


def ask_mlflow(subject: Subject, target: Target, timeout_s: float, report: Report) -> Stored | None:
    """Return the run as MLflow has it; None, with a word on why, if that is not known."""
    if not target.run_id:
        report.skip("MLflow: the run has not been there yet")
        return None
    shown = redact(target.uri)
    try:
        if not timeout_s:
            raise NoAnswerError("it was not to be asked")
        return fetch(_address(subject, target), target.run_id, timeout_s)
    except NoAnswerError as error:
        report.skip(f"MLflow at {shown}: {error}")
    except NotInMlflowError:
        line = f"MLflow at {shown} has no run {target.run_id}"
        if target.before.is_known:
            report.take("MLflow", [line])
        else:  # its store may have gone with the machine
            report.note(f"{line}; it gets one when the run is gone on with")
    return None


def _address(subject: Subject, target: Target) -> str:
    """Return the address where the run was tracked last, with its password if it has one."""
    configured = subject.experiment.tracking.uri if subject.experiment else ""
    try:
        uri = tracking_uri(configured, home())
        if redact(uri) == target.uri:
            return uri
        if HIDDEN in target.uri:
            raise NoAnswerError("its password is not known here; set MLFLOW_TRACKING_URI")
        return tracking_uri(target.uri, home())
    except BadInputError as error:
        raise NoAnswerError(str(error)) from None


def check_delivered(target: Target, log: Log, report: Report) -> None:
    """Check the mark up to which points were sent."""
    if target.delivered > log.size:
        report.problems.append(
            f"{FOLDER}/delivered.json: {target.delivered} bytes of metrics.jsonl were sent, and it "
            f"has {log.size}: points are lost here that MLflow has"
        )
    elif not log.delivered_ends_a_line:
        report.problems.append(f"{FOLDER}/delivered.json: its mark is within a line")


def check_stored(
    subject: Subject, target: Target, log: Log, stored: Stored, report: Report
) -> None:
    """Compare MLflow's points with the log's, one metric after the other."""
    if stored.run.is_deleted:
        report.problems.append(f"MLflow: run {target.run_id} was deleted there")
    if target.tracking_id and stored.run.tracking_id != target.tracking_id:
        report.problems.append(f"MLflow: run {target.run_id} is not this one, but another")
        return
    for name in ("mlflow_points", "mlflow_missing", "mlflow_duplicates", "mlflow_waiting"):
        report.checked[name] = 0
    report.take("MLflow", few(_curve_problems(subject, target, log, stored, report), "MLflow"))
    if subject.experiment is not None:
        report.take("MLflow", few(_param_problems(subject.experiment, stored), "config.yaml"))
    is_done = stored.run.status == "FINISHED" and not subject.is_live
    if is_done and not subject.run.summary.exists() and not target.before.was_fetched:
        report.problems.append(
            "summary.json: is missing, and by MLflow the run has come to its end"
        )
    has_ended = subject.is_finished and stored.run.status == "FINISHED"
    if not has_ended and not (subject.is_live and stored.run.status == "RUNNING"):
        report.note(f"MLflow: the run's status is {stored.run.status}, and it is {subject.state}")


def _curve_problems(
    subject: Subject, target: Target, log: Log, stored: Stored, report: Report
) -> Iterator[str]:
    before: set[int] = set()
    for key in sorted(log.curves.keys() | stored.curves.keys() | target.before.steps.keys()):
        if key.startswith(NOT_OURS) and key not in log.curves:
            continue
        ours, theirs = log.curves.get(key, Curve()), stored.curves.get(key, Curve())
        found = differences(ours, theirs, target.before.newest(key), _is_repeated(subject, key))
        before |= found.before if not key.startswith(LIVE) else set()
        report.checked["mlflow_points"] += len(theirs.points())
        report.checked["mlflow_missing"] += len(found.missing)
        report.checked["mlflow_duplicates"] += len(found.twice)
        report.checked["mlflow_waiting"] += found.waiting
        if found.lost is not None:
            yield f"MLflow: {key}: no point of step {found.lost} any more, by {FETCHED}"
        if found.missing:
            yield f"MLflow: {key}: no point of step {_steps(found.missing)}, which was sent"
        if found.twice:
            yield f"MLflow: {key}: {len(found.twice)} steps have more than one point"
        if found.other:
            steps = _steps(found.other)
            yield f"MLflow: {key}: a point of step {steps} that is not in metrics.jsonl"
    if before:
        report.note(
            f"MLflow: has points of steps {_steps(before)}, taken before the run was fetched from "
            "a copy, that are not in metrics.jsonl"
        )


def _is_repeated(subject: Subject, key: str) -> bool:
    """Whether a metric has a point of the same steps when those are taken again."""
    if key in ALWAYS + ALWAYS_ASYNC:
        return True
    return not key.startswith(LIVE) and not subject.may_differ_when_repeated


def _param_problems(experiment: Experiment, stored: Stored) -> Iterator[str]:
    """Yield the keys that are not what the run began with, but for those that may change."""
    for key, value in params_as_texts(experiment.model_dump(mode="json")).items():
        first = stored.run.params.get(key, value)
        if value != first and not key.startswith(RESUMABLE):
            yield f"config.yaml: {key} is {value!r:.80}, and in MLflow {first!r:.80}"


def _steps(steps: set[int]) -> str:
    return ranges(sorted(steps))
