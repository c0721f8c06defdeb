"""evaluation/: the meta-tests' tables, and the summaries that follow from their curves."""

from __future__ import annotations

import math
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
from pipeline.verify.subject import Subject, entries

CLOSE = 1e-9  # relative
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
    expected = {
        (method, metric): row for method, of in summary.items() for metric, row in of.items()
    }
    yield from _table_problems(folder / SUMMARY, name, ("method", "metric"), expected)
    if evaluation.protocol.get("task.kind") in ENVIRONMENT_KINDS:
        by_task = [asdict(one) for one in task_figures(evaluation)]
        keys = ("task", "method", "metric")
        rows = {tuple(row[key] for key in keys): row for row in by_task}
        yield from _table_problems(folder / TASKS, name, keys, rows)
    if folder == subject.run.evaluation and subject.is_finished and subject.summary is not None:
        if evaluation.method not in summary:
            yield f"{name}/{CURVES}: has no curve of the run's own method"
        elif not _same(subject.summary.get("final"), summary[evaluation.method]):
            yield f"summary.json: final is not what follows from {name}/{CURVES}"


def _checksum_problems(folder: Path, name: str, report: Report) -> Iterator[str]:
    """Yield the tables that are not as they were written."""
    sums = folder / CHECKSUMS
    if not sums.is_file():
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
    path: Path, name: str, keys: tuple[str, ...], expected: Mapping[tuple[Any, ...], Row]
) -> Iterator[str]:
    """Yield what is wrong with a table that follows from the curves: a row for each of `keys`."""
    try:
        rows = pq.read_table(path, page_checksum_verification=True, partitioning=None).to_pylist()
        found = {tuple(row.pop(key) for key in keys): row for row in rows}
    except FileNotFoundError:
        yield f"{name}/{path.name}: is missing"
        return
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        yield f"{name}/{path.name}: is damaged ({error})"
        return
    kept = {
        key: {name: value for name, value in row.items() if name not in keys}
        for key, row in expected.items()
    }
    if len(rows) != len(found) or not _same(found, kept):
        yield f"{name}/{path.name}: is not what follows from {CURVES}"


def _same(one: Any, other: Any) -> bool:
    """Whether two trees of figures are alike; JSON has null, and a table too, for what is NaN.

    A table has null, too, where only other rows have a column.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_same(one.get(key), other.get(key)) for key in one.keys() | other.keys())
    if _is_nothing(one) or _is_nothing(other):
        return _is_nothing(one) and _is_nothing(other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(one == other)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))
