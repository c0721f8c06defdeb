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
from pipeline.data.image_set_files import ImageSetRow, built_in_sets, list_image_sets
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
    image_sets = _show_image_sets(console)
    keys = ("present", "where", "size_bytes", "licence", "how", "problem")
    return {
        "root": data_root(),
        "datasets": {row.name: {key: getattr(row, key) for key in keys} for row in rows},
        "image_sets": {row.name: asdict(row) for row in image_sets},
    }


def _show_image_sets(console: Console) -> list[ImageSetRow]:
    """Print a row for each data set that can be a task as a whole."""
    rows = list_image_sets(data_root())
    cells = ((row.name, _there(row), f"{row.num_images:,}", str(row.num_classes)) for row in rows)
    columns = ("name", "there", "images", "classes")
    console.print(rows_table("Whole data sets (task.kind=datasets)", columns, cells))
    for row in rows:
        console.print(f"{row.name}: {row.problem or row.where}", soft_wrap=True, markup=False)
    console.print(f"{built_in_sets()} need no files; folder:PATH is a folder for each class")
    return rows


def _there(row: DatasetRow | ImageSetRow) -> str:
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
