"""summary.json against the newest checkpoint, from which it was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pipeline.budgets import Budget, budgets
from pipeline.errors import BadInputError
from pipeline.runs import RunFolder
from pipeline.verify.report import Report
from pipeline.verify.subject import Sound, Subject
from pipeline.verify.throughput import throughput_problems

# A meta-test after the checkpoint may lose workers and leave out tasks.
MAY_GROW = ("retries", "dropped")
STEPS = "meta.num_steps"


def read_summary(run: RunFolder, report: Report) -> dict[str, Any] | None:
    """Return the summary; None with a problem if it is damaged, or with none if it is not there."""
    if not run.summary.exists():
        return None
    if not run.summary.is_file():
        report.problems.append("summary.json: is no file")
        return None
    try:
        summary = run.read_summary()
    except BadInputError as error:
        report.take("summary.json", [str(error).replace(f"{run.path}/", "")])
        return None
    report.checked["summaries"] += 1
    return summary


def check_summary(subject: Subject, report: Report) -> None:
    """Compare it with the newest checkpoint, unless the run has gone on since it was written."""
    if subject.summary is None:
        return
    counts = subject.summary.get("counts")
    steps = counts.get("outer_steps") if isinstance(counts, dict) else None
    if subject.newest is None:
        if steps != 0 and not subject.is_live:
            line = f"summary.json: is of outer step {steps!r:.40}, and no checkpoint is sound"
            report.take("summary.json", [line])
    elif subject.is_live:
        report.skip("summary.json against the newest checkpoint: the run is under way")
    elif isinstance(steps, int) and steps < subject.newest.step:
        report.note(f"summary.json is of outer step {steps}, before the run was gone on with")
    else:
        report.take("summary.json", _problems(subject, subject.summary, subject.newest))


def _problems(subject: Subject, summary: dict[str, Any], newest: Sound) -> Iterator[str]:
    counts = summary.get("counts")
    if not isinstance(counts, dict):
        yield "summary.json: has no counts"
        return
    if counts.get("outer_steps") != newest.step:
        yield (
            f"summary.json: is of outer step {counts.get('outer_steps')!r:.40}, "
            f"the newest sound checkpoint of {newest.step}"
        )
        return
    for name, counted in asdict(newest.counters).items():
        if name in counts and not _agrees(name, counts[name], counted):
            yield (
                f"summary.json: counts.{name} is {counts[name]!r:.40}, "
                f"and {counted} in the checkpoint of outer step {newest.step}"
            )
    sha256 = summary.get("parameters_sha256")
    if sha256 != newest.parameters_sha256:
        yield (
            f"summary.json: parameters_sha256 is {sha256!r:.80}, but that of the parameters in "
            f"the checkpoint of outer step {newest.step} is {newest.parameters_sha256}"
        )
    yield from _ending_problems(subject, summary, newest)
    yield from throughput_problems(summary, newest)


def _ending_problems(subject: Subject, summary: dict[str, Any], newest: Sound) -> Iterator[str]:
    """Yield what cannot have ended meta-training; a run may have been given a new limit since."""
    key = summary.get("ended_by")
    if key is None or subject.experiment is None:
        return
    meta = subject.experiment.meta
    limits = budgets(meta.model_dump(), asdict(newest.counters))
    steps = Budget(newest.step, meta.num_steps)
    if key == STEPS and subject.is_finished and steps.used < steps.most:
        yield f"summary.json: ended_by is {key}, and {steps.used} of {steps.most} were taken"
    elif key in limits and subject.is_finished and not 0 < limits[key].most <= limits[key].used:
        used, most = limits[key]
        yield f"summary.json: ended_by is {key}, of which {used:g} is used, and {most:g} the limit"
    elif key not in (STEPS, *limits) and (key != "" or subject.is_finished):
        yield f"summary.json: ended_by is {key!r:.40}, and none of {', '.join((STEPS, *limits))}"


def _agrees(name: str, said: Any, counted: float) -> bool:
    if isinstance(said, bool) or not isinstance(said, int | float):
        return False
    return said >= counted if name in MAY_GROW else said == counted
