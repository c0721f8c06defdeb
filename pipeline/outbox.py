"""What is still to be sent to MLflow besides metric points: one small file for each item.

    pending/00000007-model.json     the item
            00000007-model/         the item's own hold on the files that are sent with it

Paths are relative: of a model's files to `pending`, of an artifact to the run's folder if it is in
there. So a folder can be moved, or brought to another machine.

An item is on disk before `put` returns and is removed after it was delivered. A process that
dies in between delivers it again: delivering is idempotent.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import atomic_folder, read_object, remove, remove_leftovers, write_atomic

KINDS = (
    "params",
    "tags",
    "artifact",
    "dataset",
    "model",
    "nested",
    "status",
)  # of what can be delivered

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be delivered."""

    file: Path
    kind: str  # one of KINDS
    content: dict[str, Any]

    def files(self) -> list[Path]:
        """Return the files that are to be sent; parameters may be called `files` or `path` too."""
        if self.kind == "model":
            return [Path(path) for path in self.content["files"]]
        return [Path(self.content["path"])] if self.kind == "artifact" else []

    def discard(self) -> None:
        """Remove the item, and its files with it."""
        self.file.unlink(missing_ok=True)
        remove(self.file.with_suffix(""))


class Outbox:
    """Items in `folder`, in the order in which they were put."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        _remove_files_of_no_item(folder)
        self._folder = folder
        names = [file.name for file in _item_files(folder)]
        self._next_number = int(names[-1].split("-")[0]) + 1 if names else 0

    def put(self, kind: str, content: Mapping[str, Any], files: Sequence[Path] = ()) -> None:
        """Add an item; OSError if the disk is full.

        Args:
            kind: What it is.
            content: Anything that JSON can hold.
            files: Of a model. Sent as they are now, even if they are removed before; no two of
                one name. They become the item's `content["files"]`.
        """
        item = self._folder / f"{self._next_number:08d}-{kind}.json"
        kept = item.with_suffix("")
        try:
            if files:
                content = {**content, "files": [f"{kept.name}/{path.name}" for path in files]}
                _keep(files, kept)
            write_atomic(item, json.dumps({"kind": kind, "content": content}).encode())
        except BaseException:
            shutil.rmtree(kept, ignore_errors=True)
            raise
        self._next_number += 1


def pending_items(folder: Path) -> Iterator[Item]:
    """Yield the items in `folder`, oldest first; to be unlinked when delivered."""
    for file in _item_files(folder):
        try:
            item = read_object(file)
            content = item["content"]
            if item["kind"] == "model":
                content["files"] = [str(folder / name) for name in content["files"]]
            elif item["kind"] == "artifact":
                content["path"] = str(folder.parent.parent / content["path"])
            yield Item(file, item["kind"], content)
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s: cannot be read and is not sent: %s", file, error)


def drop_foreign_items(folder: Path) -> None:
    """Remove the items in `folder`, a pending one of a run from elsewhere, that name other files.

    What such a folder holds is not ours: it must not make us send what it has not brought along.
    """
    run = folder.parent.parent.resolve()
    for file in _item_files(folder):
        paths: list[Path] = []
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            item = read_object(file)
            if item["kind"] in ("model", "artifact"):
                names = item["content"].get("files" if item["kind"] == "model" else "path")
                base = folder if item["kind"] == "model" else run
                paths = [base / name for name in ([names] if isinstance(names, str) else names)]
            if all(path.resolve().is_relative_to(run) for path in paths):
                continue
        logger.warning("%s: is of another machine and is not sent", file.name)
        file.unlink(missing_ok=True)


def count_items(folder: Path) -> int:
    """Return how many items wait in `folder`."""
    return len(_item_files(folder))


def _item_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*-*.json"))


def _keep(files: Sequence[Path], folder: Path) -> None:
    """Make `folder` with hard links to `files`, which cost no room, or copies where links fail."""
    with atomic_folder(folder) as temporary:
        for path in files:
            try:
                os.link(path, temporary / path.name)
            except FileNotFoundError:
                continue  # is named when it is to be sent, and fails nothing before
            except OSError:  # another file system, or one without links
                shutil.copyfile(path, temporary / path.name)


def _remove_files_of_no_item(folder: Path) -> None:
    """Remove what a process left that was killed while it put or removed an item."""
    for entry in sorted(folder.glob("[0-9]*-*")):
        if entry.is_dir() and not entry.with_suffix(".json").exists():
            remove(entry)
