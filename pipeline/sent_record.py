"""What MLflow was given of a run besides points of metrics: tracking/sent.jsonl, a thing a line.

    {"kind": "param", "name": "outer.lr", "value": "0.1"}               MLflow keeps the first value
    {"kind": "artifact", "name": "plots/meta-test.png", "size": 512}    null: it grew meanwhile
    {"kind": "model", "name": "leap step 4", "files": ["config.yaml"]}

A line is written after MLflow took the thing. `outerloop verify` looks whether it still has it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.files import whole_lines_size
from pipeline.metric_log import lines_of

SENT = "sent.jsonl"


@dataclass(slots=True)
class Sent:
    """What the record says; of a thing that was sent again, the last time."""

    params: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, int | None] = field(default_factory=dict)  # path there → size in bytes
    models: dict[str, tuple[str, ...]] = field(default_factory=dict)  # `model_label` → file names
    bad_lines: list[int] = field(default_factory=list)  # numbers, from 1

    def add(self, line: Mapping[str, Any]) -> bool:
        """Take a line; False if it is none of the record's."""
        kind, name = line.get("kind"), line.get("name")
        size, files = line.get("size"), line.get("files")
        if not isinstance(name, str) or not name:
            return False
        if kind == "param" and isinstance(line.get("value"), str):
            self.params.setdefault(name, line["value"])
        elif kind == "artifact" and (size is None or type(size) is int):
            self.artifacts[name] = size
        elif kind == "model" and isinstance(files, list) and all(type(f) is str for f in files):
            self.models[name] = tuple(files)
        else:
            return False
        return True


class SentRecord:
    """Appends to the record in `folder`, a run's tracking folder. One writer at a time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SENT
        if self._path.is_file():  # half a line is of a process that died
            os.truncate(self._path, whole_lines_size(self._path))
        self._params = set(read_sent(folder).params)

    def add_params(self, params: Mapping[str, str]) -> None:
        """Put on record that MLflow has `params`; OSError if the disk does not take it."""
        new = {key: value for key, value in params.items() if key not in self._params}
        self._write([{"kind": "param", "name": key, "value": new[key]} for key in new])
        self._params.update(new)

    def add_artifact(self, name: str, size: int | None) -> None:
        """Put on record that MLflow has a file of so many bytes; OSError as above."""
        self._write([{"kind": "artifact", "name": name, "size": size}])

    def add_model(self, name: str, step: int, files: Sequence[str]) -> None:
        """Put on record that MLflow has the model `name` of outer step `step`; OSError as above."""
        self._write([{"kind": "model", "name": model_label(name, step), "files": list(files)}])

    def _write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append the lines, or none of them: the next attempt is of the same process."""
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        with self._path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                written = file.write(data)
                if written != len(data):  # the disk became full in the middle
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            except OSError:
                file.truncate(size)
                raise


def model_label(name: str, step: int) -> str:
    """Return what tells a model from others of its run."""
    return f"{name} step {step}"


def read_sent(folder: Path) -> Sent:
    """Return what the record in `folder` says; half a line at its end does not count."""
    sent, path = Sent(), folder / SENT
    if not path.is_file():
        return sent
    for number, (text, _, is_whole) in enumerate(lines_of(path, 0), start=1):
        try:
            line = json.loads(text) if is_whole else None
        except (ValueError, RecursionError):
            line = {}
        if is_whole and not (isinstance(line, dict) and sent.add(line)):
            sent.bad_lines.append(number)
    return sent
