"""Checkpoints: every byte as it was written, numbers that are numbers, and which are kept."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from pipeline.checkpoint import VALIDATION, Checkpoint, CheckpointStore
from pipeline.checkpoint_files import DamagedCheckpointError
from pipeline.dispatcher import Counters
from pipeline.errors import BadInputError
from pipeline.files import read_object
from pipeline.runs import RunFolder
from pipeline.verify.curves import Curve
from pipeline.verify.report import Report
from pipeline.verify.subject import Sound, Subject

REMOVED_WITHIN_S = 3.0
SCORES = ("accuracy", "loss")  # that a validation is judged by: the first that there is
CLOSE = 1e-9  # relative


def check_checkpoints(run: RunFolder, is_live: bool, report: Report) -> list[Sound]:
    """Check all of them, one in memory at a time; return what the sound ones say, ascending."""
    found: list[Sound] = []
    for step in CheckpointStore(run.checkpoints, keep=2).steps():
        before = len(found)
        report.take(f"checkpoints/step-{step:06d}", _problems(run, step, is_live, found))
        report.checked["checkpoints"] += len(found) - before
    return found


def check_kept(subject: Subject, report: Report) -> None:
    """Check which checkpoints are kept, and that the best by validation is among them."""
    steps = CheckpointStore(subject.run.checkpoints, keep=2).steps()
    best: list[int] = []
    report.take(f"checkpoints/{VALIDATION}", _validation_problems(subject, steps, best))
    if subject.is_live or subject.experiment is None:
        return
    keep, num_other = subject.experiment.checkpoint.keep, len(set(steps) - set(best))
    if num_other > keep:
        report.note(
            f"checkpoints: {num_other} are kept besides the best by validation, of which "
            f"checkpoint.keep={keep} leaves {keep} at the next one"
        )
    if num_other == 1 and subject.steps > subject.experiment.checkpoint.every:
        report.note("checkpoints: only the newest is there, and none before it to fall back on")


def check_best(subject: Subject, curves: Mapping[str, Curve], report: Report) -> None:
    """Check that the best by validation did as well as is on record."""
    if not subject.may_differ_when_repeated:
        report.take(f"checkpoints/{VALIDATION}", _score_problems(subject, curves))


def _score_problems(subject: Subject, curves: Mapping[str, Curve]) -> Iterator[str]:
    try:
        best = read_object(subject.run.checkpoints / VALIDATION).get("best")
    except (FileNotFoundError, ValueError):  # a problem already
        return
    step, score = (best.get("step"), best.get("score")) if isinstance(best, dict) else (None, None)
    if not isinstance(step, int):
        return
    accuracy, loss = (curves.get(f"eval/val/{name}", Curve()).at(step) for name in SCORES)
    logged = accuracy[0] if accuracy else -loss[0] if loss else None
    if logged is not None and (
        not isinstance(score, float) or not math.isclose(score, logged, rel_tol=CLOSE)
    ):
        yield (
            f"checkpoints/{VALIDATION}: score is {score!r:.40}, and {logged!r} was logged of outer "
            f"step {step}"
        )


def _problems(run: RunFolder, step: int, is_live: bool, found: list[Sound]) -> Iterator[str]:
    """Yield what is wrong with a checkpoint; add what it says to `found` if it is sound."""
    folder = run.checkpoints / f"step-{step:06d}"
    name = f"checkpoints/{folder.name}"
    if folder.is_symlink() or folder.is_file():
        yield f"{name}: is no folder"
        return
    try:
        checkpoint = CheckpointStore(run.checkpoints, keep=2).load(step)
    except (DamagedCheckpointError, BadInputError) as error:
        if not (is_live and _goes(folder)):
            yield f"{name}: {error}"
        return
    arrays = {"parameters": checkpoint.params, **checkpoint.optimizer}
    for part, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            yield f"{name}: {part}: {int((~np.isfinite(array)).sum())} elements are not finite"
    found.append(_said_by(checkpoint))


def _goes(folder: Path) -> bool:
    """Whether an older checkpoint is being removed, as happens while a run goes on."""
    limit = time.monotonic() + REMOVED_WITHIN_S
    while folder.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    return not folder.exists()


def _said_by(checkpoint: Checkpoint) -> Sound:
    params = np.ascontiguousarray(checkpoint.params)
    return Sound(
        step=checkpoint.step,
        counters=Counters(**checkpoint.meta["counters"]),
        schedule=dict(checkpoint.meta.get("schedule") or {}),
        experiment=dict(checkpoint.meta.get("experiment") or {}),
        data=str(checkpoint.meta.get("data") or ""),
        parameters_sha256=hashlib.sha256(params.tobytes()).hexdigest(),
        parameters_norm=math.sqrt(float(np.square(params, dtype=np.float64).sum())),
    )


def _validation_problems(subject: Subject, steps: list[int], found: list[int]) -> Iterator[str]:
    """Yield what is wrong with the record of validations; add the best's outer step to `found`."""
    name = f"checkpoints/{VALIDATION}"
    try:
        record = read_object(subject.run.checkpoints / VALIDATION)
    except FileNotFoundError:
        return
    except ValueError as error:
        yield f"{name}: {error}"
        return
    best, newest = record.get("best"), record.get("newest")
    step = best.get("step") if isinstance(best, dict) else None
    if not isinstance(newest, int) or (best is not None and not isinstance(step, int)):
        yield f"{name}: is no record of validations"
    elif isinstance(step, int):
        found.append(step)
        if step not in steps and not subject.is_live:
            yield f"{name}: outer step {step} did best, and its checkpoint is not there"
