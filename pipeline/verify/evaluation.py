"""evaluation/: the meta-tests' tables, and the summaries that follow from their curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadInputError
from pipeline.evaluation import CHECKSUMS, CURVES, SUMMARY, TASKS, Evaluation
from pipeline.files import sha256_file
from pipeline.task_figures import task_figures
from pipeline.task_kinds import ENVIRONMENT_KINDS
from pipeline.verify.report import Report
from pipeline.verify.results import Figures, result_problems
from pipeline.verify.subject import Subject, entries

MAX_SUMS_CHARACTERS = 4096

Row = Mapping[str, Any]


def check_evaluations(subject: Subject, report: Report) -> None:
    """Check the run's own meta-test, and other tests of it, each in a folder of its own."""
    folder = subject.run.evaluation
    if subject.is_live:
        report.skip("evaluation: the run is under way")
        return
    others = [entry for entry in entries(folder) if entry.is_dir() and entry.name[0] != "."]
    for one in (folder, *others):
        if any(entry.suffix == ".parquet" for entry in entries(one)) or (
            one == folder and subject.is_finished
        ):
            report.take(subject.name(one), _problems(subject, one, report))


def _problems(subject: Subject, folder: Path, report: Report) -> Iterator[str]:
    name = subject.name(folder)
    for path in entries(folder):
        if path.suffix == ".parquet" and not (path.is_file() and not path.is_symlink()):
            yield f"{name}/{path.name}: is no file"
            return
    yield from _checksum_problems(folder, name, report)
    try:
        evaluation = Evaluation.from_parquet(folder)
        summary = evaluation.summary()
    except BadInputError as error:
        yield str(error).replace(f"{subject.run.path}/", "")
        return
    report.checked["evaluations"] += 1
    report.checked["adaptations"] += len(evaluation.curves)
    figures = Figures(name, is_older=not (folder / CHECKSUMS).exists(), report=report)
    expected = {
        (method, metric): row for method, of in summary.items() for metric, row in of.items()
    }
    yield from _table_problems(folder / SUMMARY, figures, ("method", "metric"), expected)
    if evaluation.protocol.get("task.kind") in ENVIRONMENT_KINDS:
        by_task = [asdict(one) for one in task_figures(evaluation)]
        keys = ("task", "method", "metric")
        rows = {tuple(row[key] for key in keys): row for row in by_task}
        yield from _table_problems(folder / TASKS, figures, keys, rows)
    if folder == subject.run.evaluation and subject.is_finished and subject.summary is not None:
        yield from result_problems(subject, subject.summary, evaluation, figures)


def _checksum_problems(folder: Path, name: str, report: Report) -> Iterator[str]:
    """Yield the tables that are not as they were written."""
    sums = folder / CHECKSUMS
    if sums.is_symlink() or (sums.exists() and not sums.is_file()):
        yield f"{name}/{CHECKSUMS}: is no file"
        return
    if not sums.exists():
        report.skip(f"{name}: checksums of its tables: there is no {CHECKSUMS}")
        return
    with sums.open(encoding="ascii", errors="replace") as file:
        lines = file.read(MAX_SUMS_CHARACTERS).splitlines()
    said = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    for path in entries(folder):
        if path.suffix == ".parquet" and sha256_file(path) != said.pop(path.name, ""):
            yield f"{name}/{path.name}: is not as it was written, by {CHECKSUMS}"
    if said:
        yield f"{name}/{CHECKSUMS}: names what is not there: {', '.join(said)}"


def _table_problems(
    path: Path, figures: Figures, keys: tuple[str, ...], expected: Mapping[tuple[Any, ...], Row]
) -> Iterator[str]:
    """Yield what is wrong with a table that follows from the curves: a row for each of `keys`."""
    name = f"{figures.name}/{path.name}"
    try:
        rows = pq.read_table(path, page_checksum_verification=True, partitioning=None).to_pylist()
        found = {tuple(row.pop(key) for key in keys): row for row in rows}
    except FileNotFoundError:
        if path.name == TASKS and figures.is_older:
            figures.report.note(f"{name}: is missing; older versions wrote none")
        else:
            yield f"{name}: is missing"
        return
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        yield f"{name}: is damaged ({error})"
        return
    kept = {
        key: {name: value for name, value in row.items() if name not in keys}
        for key, row in expected.items()
    }
    if len(rows) != len(found):
        yield f"{name}: has two rows of one figure"
    elif not figures.agree(found, kept):
        yield f"{name}: is not what follows from {CURVES}"
