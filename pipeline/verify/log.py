"""tracking/metrics.jsonl: whole lines, each point once, and those that every outer step has."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pipeline.verify.curves import Curve, Log, read_log
from pipeline.verify.report import Report, few, ranges, together
from pipeline.verify.subject import Subject

NAME = "tracking/metrics.jsonl"
LIVE = "live/"  # the one group whose steps are no outer steps
# What an outer step has a point of, whatever its tasks came to.
ALWAYS = (
    "outer/grad_norm",
    "outer/step_norm",
    "outer/params_norm",
    "perf/inner_steps_per_s",
    "perf/tasks_in_flight",
    "fault/retries",
    "fault/dropped_tasks",
)
ALWAYS_ASYNC = (
    "outer/staleness_mean",
    "outer/staleness_max",
    "perf/queue_depth",
    "fault/stale_tasks",
)
CLOSE = 1e-9  # relative; sums in another order


def load_log(subject: Subject, delivered: int, report: Report) -> Log | None:
    """Return what can be read of the log; None with a problem if that is nothing.

    `delivered` is as of `read_log`.
    """
    path = subject.run.metrics
    reason = ""
    if path.exists() and not path.is_file():
        reason = "is no file"
    elif (subject.steps or delivered) and not path.exists():
        reason = "is missing"
    elif (subject.steps or delivered) and not path.stat().st_size:
        reason = "is empty"
    try:
        if not reason:
            return read_log(path, delivered) if path.exists() else Log()
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    sent = f"; {delivered} bytes of it were sent to MLflow" if delivered else ""
    report.problems.append(f"{NAME}: {reason}{sent}; restore it: nothing else has all the curves")
    return None


def check_log(subject: Subject, log: Log, report: Report) -> None:
    """Check the log by itself, and against the number of outer steps."""
    report.checked["metric_points"] += log.num_points
    report.take(NAME, _lines_problems(subject, log, report))
    report.take(NAME, few(_order_problems(log), NAME))
    lines = together(_missing(subject, log))
    report.take(NAME, (f"{NAME}: {key}: no point of outer step {s}" for key, s in lines))
    report.take(NAME, _norm_problems(subject, log))
    if subject.is_finished:
        beyond = {
            step
            for key, curve in log.curves.items()
            if not key.startswith(LIVE)
            for step in curve.steps
            if step > subject.steps
        }
        if beyond:
            report.note(
                f"{NAME}: has points of outer steps beyond the end: {ranges(sorted(beyond))}"
            )


def _lines_problems(subject: Subject, log: Log, report: Report) -> Iterator[str]:
    if log.bad_lines:
        yield f"{NAME}: no metric point in line {ranges(log.bad_lines)}"
    if log.is_torn and subject.is_finished:
        yield f"{NAME}: its last line is not whole"
    elif log.is_torn and not subject.is_live:
        report.note(f"{NAME}: half a line at its end, of a process that died; it goes on resuming")


def _order_problems(log: Log) -> Iterator[str]:
    for key, curve in sorted(log.curves.items()):
        steps = np.frombuffer(curve.steps, np.int64)
        wrong = np.flatnonzero(steps[1:] <= steps[:-1])
        if len(wrong):
            step = int(steps[wrong[0] + 1])
            what = (
                "is there twice" if step in curve.steps[: int(wrong[0]) + 1] else "comes too late"
            )
            yield f"{NAME}: {key}: step {step} {what} ({len(wrong)} such points)"


def _missing(subject: Subject, log: Log) -> Iterator[tuple[str, str]]:
    """Yield metrics, and outer steps that each lacks."""
    is_async = subject.experiment is not None and subject.experiment.meta.mode == "async"
    curves = {k: log.curves.get(k, Curve()).steps for k in ALWAYS + (ALWAYS_ASYNC * is_async)}
    end = subject.steps + 1
    if log.is_cut:  # that its end is lost is told of as such
        end = min(end, max((max(steps, default=0) for steps in curves.values()), default=0))
    for key, steps in curves.items():
        missing = np.setdiff1d(np.arange(1, end), np.frombuffer(steps, np.int64))
        if len(missing):
            yield key, ranges(missing.tolist())


def _norm_problems(subject: Subject, log: Log) -> Iterator[str]:
    """Yield the checkpoints that are not what the log says came out of their outer step."""
    if subject.may_differ_when_repeated:
        return
    curve = log.curves.get("outer/params_norm", Curve())
    for one in subject.checkpoints:
        logged = curve.at(one.step)
        if logged is not None and not math.isclose(logged[0], one.parameters_norm, rel_tol=CLOSE):
            yield (
                f"{NAME}: outer/params_norm of outer step {one.step} is {logged[0]!r}, and "
                f"the norm of the parameters in its checkpoint {one.parameters_norm!r}"
            )
