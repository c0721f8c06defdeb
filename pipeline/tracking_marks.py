"""The small files of a run's tracking folder, which say where it is tracked and how far that is.

    target.json      which run, on which server
    delivered.json   how far metrics.jsonl has been sent; may lag, never leads
    fetched.json     of a run that was fetched from a copy: what MLflow had beyond that

They are written whole or not at all; what is not as it was written was damaged later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import BadInputError
from pipeline.files import read_object

TARGET = "target.json"
DELIVERED = "delivered.json"
FETCHED = "fetched.json"
TRACKING_ID = re.compile(r"[0-9a-f]{32}")


def read_target(folder: Path) -> dict[str, Any] | None:
    """Return what target.json in `folder` says; None if there is none.

    BadInputError if it is damaged, or that of another run: without its own nobody knows which run
    in MLflow is this one.
    """
    path = folder / TARGET
    try:
        target = read_object(path)
        wrong = next(wrong_in_target(target), "")
        if not wrong and (name := _whose(folder, target)):
            wrong = f"is that of run {name}"
    except FileNotFoundError:
        return None
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise BadInputError(
            f"{path}: {wrong}; put the file back, or remove it: then MLflow gets the run as a new "
            "one, with its curves from their beginning"
        )
    return {"run_id": None, **target}


def _whose(folder: Path, target: Mapping[str, Any]) -> str:
    """Return the name of another run beside, if target.json is its; empty if it is of this run.

    Both would put their points into one run in MLflow. A folder that was only renamed is no other.
    """
    run, name = folder.resolve().parent, target.get("run")
    if not isinstance(name, str) or name == run.name:
        return ""
    try:
        other = read_object(run.parent / Path(name).name / "tracking" / TARGET)
    except (OSError, ValueError):
        return ""
    return name if other.get("tracking_id") == target["tracking_id"] else ""


def wrong_in_target(target: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the content of target.json."""
    for key in ("uri", "experiment", "tracking_id"):
        value = target.get(key)
        if not isinstance(value, str) or not value:
            yield f"{key} is {value!r:.40}"
    tracking_id, run_id = target.get("tracking_id"), target.get("run_id")
    if isinstance(tracking_id, str) and tracking_id and not TRACKING_ID.fullmatch(tracking_id):
        yield f"tracking_id is {tracking_id!r:.40}"
    if type(target.get("begun_ms", 0)) is not int:
        yield f"begun_ms is {target['begun_ms']!r:.40}"
    if run_id is not None and not (isinstance(run_id, str) and run_id):
        yield f"run_id is {run_id!r:.40}"


def delivered_to(folder: Path) -> int:
    """Return up to which byte the log in `folder` has been sent, as far as that is known.

    Of a damaged mark nothing is known: all is sent again, and MLflow keeps one of each.
    """
    try:
        return offset_in(read_object(folder / DELIVERED)) or 0
    except (OSError, ValueError):
        return 0


def offset_in(delivered: Mapping[str, Any]) -> int | None:
    """Return how many bytes of metrics.jsonl were sent, by delivered.json; None: it is damaged."""
    offset = delivered.get("offset")
    return offset if type(offset) is int and offset >= 0 else None


def steps_in(fetched: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the newest step of each metric that MLflow had when the run was fetched.

    None if fetched.json does not say so: it is damaged, or MLflow has not answered since.
    """
    steps = fetched.get("steps")
    if not isinstance(steps, dict) or any(type(step) is not int for step in steps.values()):
        return None
    return steps
