"""How one task under way is, from its segments."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.messages import Segment
from pipeline.progress import TaskProgress

RECENT_SEGMENTS = 20  # over which a task's speed is taken
# A segment is overdue after this long, and this many times what the recent ones took.
QUIET_S, QUIET_SEGMENTS = 60.0, 3.0


@dataclass(slots=True)
class LiveTask:
    """The newest attempt at a task that has not ended."""

    attempt: int
    name: str
    num_steps: int
    begun: float
    steps: int = 0
    loss: float = math.nan
    env_steps: int | None = None
    episode_return: float | None = None
    marks: deque[tuple[float, int]] = field(  # (time, inner steps taken), as segments arrived
        default_factory=lambda: deque(maxlen=RECENT_SEGMENTS + 1)
    )

    @classmethod
    def opened(cls, segment: Segment, name: str, num_steps: int, now: float) -> LiveTask:
        """Return the task of a first segment, whose work had begun before it arrived."""
        rows = segment.rows
        begun = now - rows.num_rows * (_mean(rows, "wall_ms") or 0.0) / 1e3
        task = cls(segment.spec.attempt, name, num_steps, begun)
        task.marks.append((begun, steps_taken(rows) - rows.num_rows))
        return task

    def add(self, rows: pa.RecordBatch, now: float) -> None:
        """Take in the next rows (TRAJECTORY_SCHEMA; at least one)."""
        self.steps = steps_taken(rows)
        loss = _mean(rows, "loss")
        self.loss = math.nan if loss is None else loss
        self.env_steps = pc.max(rows.column("env_steps")).as_py()
        returns = _mean(rows, "episode_return")
        self.episode_return = self.episode_return if returns is None else returns
        self.marks.append((now, self.steps))

    @property
    def steps_per_s(self) -> float | None:
        """Inner steps a second over the recent segments; None if they took no time."""
        (since, first), (heard, last) = self.marks[0], self.marks[-1]
        return (last - first) / (heard - since) if heard > since and last > first else None

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at this speed."""
        per_s = self.steps_per_s
        return None if per_s is None else (self.num_steps - self.steps) / per_s

    def progress(self, place: int) -> TaskProgress:
        """Return all of it."""
        since, heard = self.marks[0][0], self.marks[-1][0]
        each_s = (heard - since) / (len(self.marks) - 1)
        return TaskProgress(
            name=self.name,
            place=place,
            steps=self.steps,
            num_steps=self.num_steps,
            env_steps=self.env_steps,
            episode_return=self.episode_return,
            loss=self.loss,
            steps_per_s=self.steps_per_s,
            eta_s=self.eta_s,
            begun=self.begun,
            heard=heard,
            overdue=heard + max(QUIET_S, QUIET_SEGMENTS * each_s),
        )


def steps_taken(rows: pa.RecordBatch) -> int:
    """Return the inner steps taken in the task, given its newest rows."""
    return int(rows.column("step")[-1].as_py()) + 1


def _mean(rows: pa.RecordBatch, name: str) -> float | None:
    """Return the mean of a column over the rows that have a value; None if none has."""
    mean: float | None = pc.mean(rows.column(name)).as_py()
    return mean
