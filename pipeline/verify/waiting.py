"""tracking/pending: what else waits for MLflow, and whether it can be sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.files import read_object
from pipeline.outbox import KINDS
from pipeline.verify.report import Report, few
from pipeline.verify.subject import Subject, entries

NAME = "tracking/pending"
ITEM_NAME = re.compile(r"\d+-\w+\.json")
FILES_NAME = re.compile(r"\d+-\w+")  # folder of an item's files


def check_outbox(subject: Subject, report: Report) -> None:
    """Count what waits, and check that it can be sent."""
    found = entries(subject.run.path / NAME)
    report.take(NAME, few(_item_problems(subject, found, report), NAME))
    report.take(NAME, few(_junk_problems(subject, found), NAME))
    waiting = report.checked["outbox_items"]
    if waiting and not subject.is_live:
        report.note(
            f"{NAME}: {waiting} items wait for MLflow; resuming or evaluating the run sends them"
        )


def _item_problems(subject: Subject, found: list[Path], report: Report) -> Iterator[str]:
    for path in found:
        if not ITEM_NAME.fullmatch(path.name):
            continue
        try:
            item = read_object(path)
        except FileNotFoundError:  # sent in this moment
            continue
        except ValueError as error:
            yield f"{subject.name(path)}: {error}; it will not be sent"
            continue
        report.checked["outbox_items"] += 1
        if item.get("kind") not in KINDS or not isinstance(item.get("content"), dict):
            yield f"{subject.name(path)}: is no item of the outbox; it will not be sent"


def _junk_problems(subject: Subject, found: list[Path]) -> Iterator[str]:
    """Yield what nobody put there who had something to send; hidden files are half-written ones."""
    for path in found:
        is_of_item = FILES_NAME.fullmatch(path.name) and not path.is_file()
        if not (path.name[0] == "." or ITEM_NAME.fullmatch(path.name) or is_of_item):
            yield f"{subject.name(path)}: is nothing that can be sent; remove it"
