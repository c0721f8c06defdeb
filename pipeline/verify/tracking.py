"""What was logged against what MLflow has; and what still waits to be sent there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import BadInputError
from pipeline.files import read_object
from pipeline.redaction import redact
from pipeline.resumable import RESUMABLE
from pipeline.runs import home
from pipeline.tracking import params_as_texts, tracking_uri
from pipeline.verify.curves import Curve, Log
from pipeline.verify.report import Report, few, ranges
from pipeline.verify.stored import NoAnswerError, NotInMlflowError, Stored, fetch
from pipeline.verify.subject import Subject, entries

if TYPE_CHECKING:
    from pipeline.config import Experiment

FOLDER = "tracking"
NOT_OURS = "system/"  # metrics that MLflow adds by itself
ITEM_NAME = re.compile(r"\d+-.*\.json")
HIDDEN = "***"  # in place of a password


@dataclass(frozen=True, slots=True)
class Target:
    """Where the run is tracked, and how far that has come."""

    uri: str = ""  # without password
    run_id: str = ""  # empty: MLflow never answered
    tracking_id: str = ""
    delivered: int = 0  # bytes of metrics.jsonl


def read_target(subject: Subject, report: Report) -> Target:
    """Return what target.json and delivered.json say; problems, if they are damaged."""
    found: dict[str, Any] = {}
    report.take(FOLDER, _target_problems(subject, found))
    return Target(**found)


def _target_problems(subject: Subject, found: dict[str, Any]) -> Iterator[str]:
    kinds = {"uri": str, "run_id": str, "tracking_id": str, "offset": int}
    for name, keys in {
        "target.json": ("uri", "run_id", "tracking_id"),
        "delivered.json": ("offset",),
    }.items():
        try:
            content = read_object(subject.run.path / FOLDER / name)
        except FileNotFoundError:
            continue
        except ValueError as error:
            yield f"{FOLDER}/{name}: {error}"
            continue
        for key in keys:
            value = content.get(key)
            if type(value) is kinds[key]:
                found["delivered" if key == "offset" else key] = value
            elif not (key == "run_id" and value is None):
                yield f"{FOLDER}/{name}: {key} is {value!r:.40}"


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
        report.take("MLflow", [f"MLflow at {shown} has no run {target.run_id}"])
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
    report.take("MLflow", few(_curve_problems(log, stored, report), "MLflow"))
    if subject.experiment is not None:
        report.take("MLflow", few(_param_problems(subject.experiment, stored), "config.yaml"))
    has_ended = subject.is_finished and stored.run.status == "FINISHED"
    if not has_ended and not (subject.is_live and stored.run.status == "RUNNING"):
        report.note(f"MLflow: the run's status is {stored.run.status}, and it is {subject.state}")


def _curve_problems(log: Log, stored: Stored, report: Report) -> Iterator[str]:
    for key in sorted(log.curves.keys() | stored.curves.keys()):
        if key.startswith(NOT_OURS) and key not in log.curves:
            continue
        ours, theirs = log.curves.get(key, Curve()), stored.curves.get(key, Curve()).points()
        missing = ours.points(0, ours.num_delivered) - theirs
        other = theirs - ours.points()
        duplicates = len(theirs) - len({step for step, _, _ in theirs})
        report.checked["mlflow_points"] += len(theirs)
        report.checked["mlflow_missing"] += len(missing)
        report.checked["mlflow_duplicates"] += duplicates
        report.checked["mlflow_waiting"] += len(ours.points(ours.num_delivered) - theirs)
        if missing:
            yield f"MLflow: {key}: no point of step {_steps(missing)}, which was sent"
        if duplicates:
            yield f"MLflow: {key}: {duplicates} steps have more than one point"
        if other:
            yield f"MLflow: {key}: a point of step {_steps(other)} that is not in metrics.jsonl"


def _param_problems(experiment: Experiment, stored: Stored) -> Iterator[str]:
    """Yield the keys that are not what the run began with, but for those that may change."""
    for key, value in params_as_texts(experiment.model_dump(mode="json")).items():
        first = stored.run.params.get(key, value)
        if value != first and not key.startswith(RESUMABLE):
            yield f"config.yaml: {key} is {value!r:.80}, and in MLflow {first!r:.80}"


def _steps(points: set[tuple[int, float, int]]) -> str:
    return ranges(sorted({step for step, _, _ in points}))


def check_outbox(subject: Subject, report: Report) -> None:
    """Count what else waits, and check that it can be sent."""
    report.take("tracking/pending", _item_problems(subject, report))
    waiting = report.checked["outbox_items"]
    if waiting and not subject.is_live:
        report.note(
            f"tracking/pending: {waiting} items wait for MLflow; "
            "resuming or evaluating the run sends them"
        )


def _item_problems(subject: Subject, report: Report) -> Iterator[str]:
    for path in entries(subject.run.path / FOLDER / "pending"):
        if not ITEM_NAME.fullmatch(path.name):
            continue
        try:
            item = read_object(path)
        except FileNotFoundError:  # sent in this moment
            continue
        except ValueError as error:
            yield f"{subject.name(path)}: {error}; it will not be sent"
            continue
        report.checked["outbox_items"] += 1
        if not isinstance(item.get("kind"), str) or not isinstance(item.get("content"), dict):
            yield f"{subject.name(path)}: is no item of the outbox; it will not be sent"
