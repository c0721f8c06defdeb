"""Parameters, artifacts and models that were sent, by tracking/sent.jsonl, against MLflow's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.outbox import count_items
from pipeline.resumable import RESUMABLE
from pipeline.sent_record import SENT, Sent, read_sent
from pipeline.tracking import params_as_texts
from pipeline.verify.report import Report, few, ranges
from pipeline.verify.stored import Stored
from pipeline.verify.subject import Subject
from pipeline.verify.tracking import FOLDER, Target

if TYPE_CHECKING:
    from pipeline.config import Experiment

AGAIN = "resuming the run sends it again"
MAX_NAMED = 5


def load_sent(subject: Subject, target: Target, report: Report) -> Sent:
    """Return what was sent, with a problem if the record is damaged."""
    path = subject.run.path / FOLDER / SENT
    name = f"{FOLDER}/{SENT}"
    if path.is_symlink() or (path.exists() and not path.is_file()):
        report.problems.append(f"{name}: is no file")
        return Sent()
    if target.run_id and not path.exists():  # of an older version, or fetched from a copy
        report.skip(f"MLflow's parameters, artifacts and models: there is no {name}")
    sent = read_sent(subject.run.path / FOLDER)
    if sent.bad_lines:
        report.problems.append(f"{name}: nothing that was sent in line {ranges(sent.bad_lines)}")
    return sent


def check_things(subject: Subject, sent: Sent, stored: Stored, report: Report) -> None:
    """Check that MLflow still has all of it, as it was sent."""
    otherwise = _otherwise(subject.experiment, stored) if subject.experiment else {}
    lines = (
        f"config.yaml: {key} is {here!r:.80}, and in MLflow {there!r:.80}"
        for key, (here, there) in otherwise.items()
        if key not in subject.differing  # by the checkpoints it is config.yaml that changed
    )
    report.take("MLflow", few(lines, "config.yaml"))
    waits = count_items(subject.run.path / FOLDER / "pending")
    if not stored.run.params and not waits and not subject.is_live:
        report.problems.append(
            f"MLflow: has no parameter of the run; send all with: outerloop evaluate "
            f"{subject.run.run_id}"
        )
    report.take("MLflow", few(_param_problems(sent, stored, otherwise.keys()), "MLflow"))
    if stored.files.not_listed and (sent.artifacts or sent.models):
        report.skip(f"MLflow's artifacts and models: {stored.files.not_listed}")
        return
    report.take("MLflow", few(_artifact_problems(subject, sent, stored), "MLflow"))
    report.take("MLflow", few(_model_problems(sent, stored), "MLflow"))
    report.checked["mlflow_files"] = len(sent.artifacts) + sum(map(len, sent.models.values()))


def _otherwise(experiment: Experiment, stored: Stored) -> dict[str, tuple[str, str]]:
    """Return keys that are not what the run began with, but for those that may change."""
    texts = params_as_texts(experiment.model_dump(mode="json"))
    there = {key: stored.run.params.get(key, value) for key, value in texts.items()}
    return {
        key: (value, there[key])
        for key, value in texts.items()
        if value != there[key] and not key.startswith(RESUMABLE)
    }


def _param_problems(sent: Sent, stored: Stored, told: Collection[str]) -> Iterator[str]:
    there = stored.run.params
    if gone := [key for key in sent.params if key not in there]:
        yield f"MLflow: parameter {_some(gone)} not there any more; {AGAIN}"
    for key, value in sent.params.items():
        if key in there and there[key] != value and key not in told:
            yield f"MLflow: parameter {key} is {there[key]!r:.80}, and {value!r:.80} was sent"


def _artifact_problems(subject: Subject, sent: Sent, stored: Stored) -> Iterator[str]:
    there = stored.files.artifacts
    if gone := [name for name in sorted(sent.artifacts) if name not in there]:
        yield f"MLflow: artifact {_some(gone)} not there any more; {AGAIN}"
    for name, size in sorted(sent.artifacts.items()):
        has = there.get(name)
        # While a process is at work one may just be sent again.
        if not (subject.is_live or size is None or has is None or has == size):
            yield f"MLflow: artifact {name} has {has} bytes, and {size} were sent; {AGAIN}"


def _model_problems(sent: Sent, stored: Stored) -> Iterator[str]:
    for label, files in sorted(sent.models.items()):
        there = stored.files.models.get(label)
        if there is None:
            yield f"MLflow: model {label} is not there any more; evaluating the run sends it again"
        elif gone := [name for name in files if name not in there]:
            yield f"MLflow: model {label}: {_some(gone)} not there any more"


def _some(names: Sequence[str]) -> str:
    """Return names, and how many more there are, with a verb."""
    shown, rest = ", ".join(names[:MAX_NAMED]), len(names) - MAX_NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"
