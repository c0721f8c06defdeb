"""What is still to be sent to MLflow besides metric points: one small file for each item.

An item is on disk before `put` returns and is removed after it was delivered. A process that
dies in between delivers it again: delivering is idempotent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import remove_leftovers, write_atomic

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be delivered."""

    file: Path
    kind: str  # of pipeline.mlflow_run.MlflowRun.deliver
    content: dict[str, Any]


class Outbox:
    """Items in `folder`, in the order in which they were put."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        self._folder = folder
        names = [file.name for file in _item_files(folder)]
        self._next_number = int(names[-1].split("-")[0]) + 1 if names else 0

    def put(self, kind: str, content: Mapping[str, Any]) -> None:
        """Add an item whose content is anything that JSON can hold; OSError if the disk is full."""
        name = f"{self._next_number:08d}-{kind}.json"
        write_atomic(self._folder / name, json.dumps({"kind": kind, "content": content}).encode())
        self._next_number += 1


def pending_items(folder: Path) -> Iterator[Item]:
    """Yield the items in `folder`, oldest first; to be unlinked when delivered."""
    for file in _item_files(folder):
        try:
            item = json.loads(file.read_bytes())
            yield Item(file, item["kind"], item["content"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s: cannot be read and is not sent: %s", file, error)


def count_items(folder: Path) -> int:
    """Return how many items wait in `folder`."""
    return len(_item_files(folder))


def _item_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*-*.json"))
