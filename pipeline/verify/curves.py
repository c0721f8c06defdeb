"""The local metric log in memory, strictly read: 24 bytes a point, whatever the file holds."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.metric_log import MetricPoint, lines_of, parse_point


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
    is_cut: bool = False  # points were sent to MLflow that it has not
    delivered_ends_a_line: bool = True


def read_log(path: Path, delivered: int) -> Log:
    """Read the log; `delivered` is the byte up to which its points were noted as sent to MLflow.

    OSError if it cannot be read.
    """
    log = Log(delivered_ends_a_line=delivered == 0)
    for number, (line, end, is_whole) in enumerate(lines_of(path, 0), start=1):
        log.size = end
        log.delivered_ends_a_line |= end == delivered
        if not is_whole:
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
    log.is_cut = delivered > log.size
    return log
