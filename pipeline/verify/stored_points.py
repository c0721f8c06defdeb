"""Points of the local log against those that MLflow has."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.verify.curves import Curve, Log
from pipeline.verify.log import ALWAYS, ALWAYS_ASYNC, LIVE
from pipeline.verify.points import Differences, differences
from pipeline.verify.report import Report, few, ranges, together
from pipeline.verify.stored import Stored
from pipeline.verify.subject import Subject
from pipeline.verify.tracking import Target

NOT_OURS = "system/"  # metrics that MLflow adds by itself
COUNTS = ("mlflow_points", "mlflow_missing", "mlflow_duplicates", "mlflow_waiting")


def check_points(
    subject: Subject, target: Target, log: Log, stored: Stored, report: Report
) -> None:
    """Compare one metric after the other; what is wrong with several in one way is one line."""
    report.checked.update(dict.fromkeys(COUNTS, 0))
    lines = together(_problems(subject, target, log, stored, report))
    report.take("MLflow", few((f"MLflow: {key}: {what}" for key, what in lines), "MLflow"))


def _problems(
    subject: Subject, target: Target, log: Log, stored: Stored, report: Report
) -> Iterator[tuple[str, str]]:
    """Yield metrics, and what is wrong with each."""
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
        for what in _words(found):
            yield key, what
        if len(theirs.steps) and key not in stored.run.keys:
            yield key, "has points there, and no newest one: it is shown nowhere"
    if before:
        report.note(
            f"MLflow: has points of steps {_steps(before)}, taken before the run was fetched from "
            "a copy, that are not in metrics.jsonl"
        )


def _words(found: Differences) -> Iterator[str]:
    if found.lost is not None:
        yield f"no point of step {found.lost} any more, by fetched.json"
    if found.missing:
        yield f"no point of step {_steps(found.missing)}, which was sent"
    if found.twice:
        yield f"{len(found.twice)} steps have more than one point"
    if found.other:
        yield f"a point of step {_steps(found.other)} that is not in metrics.jsonl"


def _is_repeated(subject: Subject, key: str) -> bool:
    """Whether a metric has a point of the same steps when those are taken again."""
    if key in ALWAYS + ALWAYS_ASYNC:
        return True
    return not key.startswith(LIVE) and not subject.may_differ_when_repeated


def _steps(steps: set[int]) -> str:
    return ranges(sorted(steps))
