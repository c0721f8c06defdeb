"""The data sets: where they are, and getting them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from jobs.tables import rows_table
from pipeline.data.fetch import DatasetRow, list_datasets
from pipeline.data.fetch import fetch as fetch_files
from pipeline.data.paths import data_root

MIB = 1 << 20


def show(console: Console) -> dict[str, Any]:
    """Print a row for each data set."""
    rows = list_datasets(data_root())
    table = rows_table(
        "Data sets",
        ("name", "there", "MiB", "licence"),
        ((row.name, _there(row), f"{row.size_bytes / MIB:.1f}", row.licence) for row in rows),
    )
    console.print(table)
    for row in rows:  # under the table, which would cut the paths
        console.print(f"{row.name}: {row.problem or row.where}", soft_wrap=True, markup=False)
    keys = ("present", "where", "size_bytes", "licence", "how", "problem")
    return {
        "root": data_root(),
        "datasets": {row.name: {key: getattr(row, key) for key in keys} for row in rows},
    }


def _there(row: DatasetRow) -> str:
    if row.present:
        return "yes"
    return "partly" if row.size_bytes else "no"


def fetch(console: Console, name: str, source: Path | None) -> dict[str, Any]:
    """Get the data set and say how each file was checked, and its SHA-256."""
    with Progress(console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(file: str, done: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file)
            bars.update(tasks[file], completed=done, total=total)

        files = fetch_files(name, data_root(), source, progress=advance)
    for file in files:
        there = " (was there already)" if file.was_there else ""
        line = f"{file.path}: {file.verdict}{there}; SHA-256 {file.sha256}"
        console.print(line, soft_wrap=True, markup=False)
    return {"name": name, "files": [asdict(file) for file in files]}
