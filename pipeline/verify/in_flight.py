"""in_flight/: tasks that are to be gone on with, their rows so far and the states inside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.journal import ROWS_NAME, TRAINED_NAME, is_as_written
from pipeline.task_states import NAME as STATE_NAME
from pipeline.task_states import DamagedStateError, check_state
from pipeline.verify.report import Report, few
from pipeline.verify.rows import DamagedRowsError, RowOrder, read_rows
from pipeline.verify.subject import Subject, entries, is_leftover

NAME = "in_flight"


def check_in_flight(subject: Subject, report: Report) -> None:
    """Check every task that is kept there, if nobody is at work on them."""
    if subject.is_live:
        report.skip(f"{NAME}: the run is under way")
        return
    ended = []
    for folder in entries(subject.run.in_flight):
        if is_leftover(folder):
            continue
        report.checked["tasks_in_flight"] += 1
        report.take(subject.name(folder), few(_problems(subject, folder, report), folder.name))
        if _is_on_record(subject, folder.name):
            ended.append(folder.name)
    if ended and subject.is_finished:
        report.take(NAME, few((f"{NAME}/{name}: its task is on record" for name in ended), NAME))
    elif ended:
        report.note(f"{NAME}: {len(ended)} tasks are on record; they go when the run is resumed")


def _is_on_record(subject: Subject, folder: str) -> bool:
    """Whether the task of meta-training with this folder is part of the newest checkpoint."""
    match = TRAINED_NAME.fullmatch(folder)
    if match is None or subject.newest is None or subject.experiment is None:
        return False
    meta_step, index = int(match[1]), int(match[2])
    if subject.experiment.meta.mode == "sync":
        return meta_step < subject.newest.step
    schedule = subject.newest.schedule
    return bool(index < schedule.get("next", 0) and index not in schedule.get("open", ()))


def _problems(subject: Subject, folder: Path, report: Report) -> Iterator[str]:
    if folder.is_symlink() or not folder.is_dir():
        yield f"{subject.name(folder)}: is no folder"
        return
    files = entries(folder)
    for path in files:
        if STATE_NAME.fullmatch(path.name):
            try:
                check_state(path)
                report.checked["states"] += 1
            except DamagedStateError as error:
                yield f"{subject.name(path)}: {error}"
    end, order = 0, RowOrder()
    spans = [(int(m[1]), -int(m[2]), p) for p in files if (m := ROWS_NAME.fullmatch(p.name))]
    for first, minus_last, path in sorted(spans):
        if -minus_last <= end:  # left by a process that died while it cut rows off
            report.note(f"{subject.name(path)}: its inner steps are in another file, too")
            continue
        if first != end:
            yield f"{subject.name(folder)}: no rows of inner steps {end} to {first - 1}"
            return
        end = -minus_last
        try:
            yield from _row_problems(subject.name(path), path, end - first, order)
        except DamagedRowsError as error:
            yield f"{subject.name(path)}: {error}"
            return
        report.checked["rows_in_flight"] += end - first


def _row_problems(name: str, path: Path, expected: int, order: RowOrder) -> Iterator[str]:
    if path.is_file() and not is_as_written(path):
        raise DamagedRowsError("wrong checksum")
    count = 0
    for rows in read_rows(path):
        count += rows.num_rows
        if wrong := order.take(rows):
            yield f"{name}: {wrong}"
            return
    if count != expected:
        yield f"{name}: {count} rows, where its name says {expected}"
