"""The local metric log in memory, strictly read: 24 bytes a point, whatever the file holds."""

from __future__ import annotations

import json
import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.metric_log import MetricPoint

MAX_LINE_BYTES = 1 << 16
INT64 = range(-(1 << 63), 1 << 63)
FIELDS = {"key", "step", "value", "timestamp_ms"}


@dataclass(slots=True)
class Curve:
    """The points of one metric, in the order of the file."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    times: array[int] = field(default_factory=lambda: array("q"))
    num_delivered: int = 0  # of its points, from the first on, those noted as sent to MLflow

    def add(self, point: MetricPoint) -> None:
        """Take the next point."""
        self.steps.append(point.step)
        self.values.append(point.value)
        self.times.append(point.timestamp_ms)

    def at(self, step: int) -> tuple[float, int] | None:
        """Return value and time of the point of `step`; None if there is none."""
        place = bisect_left(self.steps, step)
        if place == len(self.steps) or self.steps[place] != step:
            return None
        return self.values[place], self.times[place]

    def points(self, first: int = 0, last: int | None = None) -> set[tuple[int, float, int]]:
        """Return (step, value, time) of the points from number `first` up to `last`."""
        part = slice(first, last)
        return set(zip(self.steps[part], self.values[part], self.times[part], strict=True))


@dataclass(slots=True)
class Log:
    """All of metrics.jsonl."""

    curves: dict[str, Curve] = field(default_factory=dict)
    num_points: int = 0
    bad_lines: list[int] = field(default_factory=list)  # numbers, from 1, of lines without a point
    is_torn: bool = False  # its last line is not whole
    size: int = 0
    delivered_ends_a_line: bool = True


def read_log(path: Path, delivered: int) -> Log:
    """Read the log; `delivered` is the byte up to which its points were noted as sent to MLflow.

    OSError if it cannot be read.
    """
    log = Log(delivered_ends_a_line=delivered == 0)
    end = 0
    for number, line in enumerate(_lines(path), start=1):
        end += len(line)
        log.size = end
        log.delivered_ends_a_line |= end == delivered
        if not line.endswith(b"\n"):
            log.is_torn = True
            break
        point = parse_point(line)
        if point is None:
            log.bad_lines.append(number)
            continue
        curve = log.curves.setdefault(point.key, Curve())
        curve.add(point)
        curve.num_delivered += end <= delivered
        log.num_points += 1
    return log


def parse_point(line: bytes) -> MetricPoint | None:
    """Return the point in a line of the log; None if it is not just that, of the right types."""
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or fields.keys() != FIELDS:
        return None
    key, value = fields["key"], fields["value"]
    whole = (fields["step"], fields["timestamp_ms"])
    if not isinstance(key, str) or any(type(number) is not int for number in whole):
        return None
    if type(value) is not float or not math.isfinite(value):
        return None
    return MetricPoint(**fields) if all(number in INT64 for number in whole) else None


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines; of one that is far too long, its length in bytes that hold no point."""
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            if line.endswith(b"\n") or len(line) < MAX_LINE_BYTES:
                yield line
                continue
            size = len(line)
            while part := file.readline(MAX_LINE_BYTES):
                size += len(part)
                if part.endswith(b"\n"):
                    break
            yield b" " * (size - 1) + part[-1:]
