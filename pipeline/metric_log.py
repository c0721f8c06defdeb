"""The run's own record of its metrics: an append-only file of points with fixed time stamps.

    metrics.jsonl: {"key": "train/loss", "step": 12, "value": 0.5, "timestamp_ms": 1700000000000}

It is written before anything is sent anywhere, so that curves do not depend on a server. As a
point's time stamp never changes, sending it again is harmless: MLflow stores it once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.files import whole_lines_size

MAX_LINE_BYTES = 1 << 16
INT64 = range(-(1 << 63), 1 << 63)
FIELDS = {"key", "step", "value", "timestamp_ms"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One value of one metric."""

    key: str
    step: int
    value: float
    timestamp_ms: int  # since the epoch, of when it was first logged


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class MetricLog:
    """Appends points to `path`.

    At all times:
      - the file holds whole lines, but for the last one of a process that was killed, which is
        cut off when the log is opened again;
      - a key has at most one point for a step. Steps of a key only grow: a point that is not
        later than the key's last one is skipped, so that a resumed run which takes outer steps
        again logs them once. Memory is one number for each key.

    MLflow shows an infinity as 1.8e308, which ruins the curve's axis, and a NaN as a gap. Points
    that are not finite are left out and the key is named in a warning, once.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._last_step: dict[str, int] = {}
        self._not_finite: set[str] = set()
        if path.exists():
            os.truncate(path, whole_lines_size(path))
        for point in _points(path, 0):
            self._last_step[point.key] = max(point.step, self._last_step.get(point.key, point.step))
        self._file = path.open("ab")

    def keys(self) -> list[str]:
        """Return every key that has a point."""
        return list(self._last_step)

    def append(self, step: int, values: Mapping[str, float], timestamp_ms: int) -> None:
        """Log `values` at `step`; OSError if the disk is full. Lasts if this process is killed."""
        points = [
            MetricPoint(key, step, float(value), timestamp_ms)
            for key, value in values.items()
            if step > self._last_step.get(key, step - 1) and self._is_finite(key, float(value))
        ]
        self._file.write(b"".join(json.dumps(asdict(p)).encode() + b"\n" for p in points))
        self._file.flush()
        self._last_step.update({point.key: step for point in points})

    def sync(self) -> None:
        """Force the log to disk, to outlast the machine; call before a checkpoint counts."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Force the log to disk and close it; closed it is even if the disk is full (OSError)."""
        try:
            self._file.flush()
            self.sync()
        finally:
            self._file.close()

    def _is_finite(self, key: str, value: float) -> bool:
        if math.isfinite(value):
            return True
        if key not in self._not_finite:
            self._not_finite.add(key)
            logger.warning("metric %s is %s; points that are not finite are left out", key, value)
        return False


def read_points(path: Path, offset: int, limit: int) -> tuple[list[MetricPoint], int]:
    """Return up to `limit` points from byte `offset` on, and the offset after them.

    A line that is still being written, or was torn, is not read; one that holds no point is
    passed over with a warning.
    """
    points: list[MetricPoint] = []
    for line, end in _whole_lines(path, offset):
        offset = end
        point = _parse(path, line)
        if point is not None:
            points.append(point)
        if len(points) == limit:
            break
    return points, offset


def read_curve(path: Path, key: str) -> list[tuple[int, float]]:
    """Return (step, value) of every point of metric `key`, in order."""
    return [(point.step, point.value) for point in _points(path, 0) if point.key == key]


def count_points(path: Path, offset: int) -> int:
    """Return how many points there are from byte `offset` on."""
    return sum(1 for _ in _whole_lines(path, offset))


def lines_of(path: Path, offset: int) -> Iterator[tuple[bytes, int, bool]]:
    """Yield each line from byte `offset` on, where it ends, and whether its end is there.

    Of a line that is too long to hold a point nothing is given but where it ends.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        # After a power failure the log can be shorter than what was read of it before.
        offset = file.seek(min(offset, path.stat().st_size))
        while line := file.readline(MAX_LINE_BYTES):
            offset += len(line)
            last, is_long = line[-1:], False
            while last != b"\n" and (more := file.readline(MAX_LINE_BYTES)):
                offset += len(more)
                last, is_long = more[-1:], True
            yield b"" if is_long else line, offset, last == b"\n"


def parse_point(line: bytes) -> MetricPoint | None:
    """Return the point in a line of the log; None if it is not just that, of the right types."""
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


def _points(path: Path, offset: int) -> Iterator[MetricPoint]:
    for line, _ in _whole_lines(path, offset):
        point = _parse(path, line)
        if point is not None:
            yield point


def _whole_lines(path: Path, offset: int) -> Iterator[tuple[bytes, int]]:
    return ((line, end) for line, end, is_whole in lines_of(path, offset) if is_whole)


def _parse(path: Path, line: bytes) -> MetricPoint | None:
    point = parse_point(line)
    if point is None:
        logger.warning("%s: a line that is no metric point was passed over: %.80r", path, line)
    return point
