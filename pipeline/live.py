"""How far the tasks under way are, from the segments that arrive."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.messages import Segment, TaskSpec
from pipeline.progress import TaskProgress

RECENT_SEGMENTS = 20  # over which a task's speed is taken
# A segment is overdue after this long, and this many times what the recent ones took.
QUIET_S, QUIET_SEGMENTS = 60.0, 3.0

Place = tuple[int, int]  # outer step, place in its meta-batch


@dataclass(slots=True)
class _OpenTask:
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

    def add(self, rows: pa.RecordBatch, now: float) -> None:
        self.steps = _steps_taken(rows)
        loss = _mean(rows, "loss")
        self.loss = math.nan if loss is None else loss
        self.env_steps = pc.max(rows.column("env_steps")).as_py()
        returns = _mean(rows, "episode_return")
        self.episode_return = self.episode_return if returns is None else returns
        self.marks.append((now, self.steps))

    def progress(self, place: int) -> TaskProgress:
        (since, first), (heard, _) = self.marks[0], self.marks[-1]
        elapsed, taken = heard - since, self.steps - first
        per_s = taken / elapsed if elapsed > 0 and taken else None
        each_s = elapsed / (len(self.marks) - 1)
        return TaskProgress(
            name=self.name,
            place=place,
            steps=self.steps,
            num_steps=self.num_steps,
            env_steps=self.env_steps,
            episode_return=self.episode_return,
            loss=self.loss,
            steps_per_s=per_s,
            eta_s=None if per_s is None else (self.num_steps - self.steps) / per_s,
            begun=self.begun,
            heard=heard,
            overdue=heard + max(QUIET_S, QUIET_SEGMENTS * each_s),
        )


class LiveTasks:
    """Keeps what the segments of a meta-batch, or of a meta-test, say of its tasks under way.

    At all times:
      - a task is open from the first segment with rows of its newest attempt up to its last one;
      - what is kept of it is of that attempt alone, which may begin in the middle of the task.

    Args:
        planned: Inner steps of the work of each spec.
        begun: When the first one could be taken.
    """

    def __init__(self, planned: Mapping[TaskSpec, int], begun: float) -> None:
        self._open: dict[Place, _OpenTask] = {}
        self._steps: dict[Place, int] = {}  # inner steps taken, ended tasks included
        self._num_steps = {_place(spec): count for spec, count in planned.items()}
        self._numbers = _numbers(planned)
        self._begun = begun
        self._received = 0  # inner steps, those of attempts that were lost included

    def take(self, segment: Segment, num_steps: int, now: float) -> TaskProgress | None:
        """Take in the next segment of a task of `num_steps` inner steps, which arrived at `now`.

        Returns how the task stands; None if it has ended, or has not taken an inner step.
        """
        spec, rows = segment.spec, segment.rows
        place = _place(spec)
        if place in self._open and self._open[place].attempt != spec.attempt:
            del self._open[place]
        if rows.num_rows:
            self._steps[place], self._num_steps[place] = _steps_taken(rows), num_steps
            self._received += rows.num_rows
        if segment.final:
            self._open.pop(place, None)
            self._num_steps[place] = self._steps.get(place, 0)  # it may end early, and left out
            return None
        if rows.num_rows:
            if place not in self._open:
                self._open[place] = self._opened(segment, num_steps, now)
            self._open[place].add(rows, now)
        task = self._open.get(place)
        return None if task is None else task.progress(spec.index)

    def tasks(self) -> list[TaskProgress]:
        """Return how every open task stands, by place."""
        return [task.progress(place) for (_, place), task in sorted(self._open.items())]

    def whole(self, now: float) -> tuple[int, int, float | None]:
        """Return inner steps taken of all tasks, ended ones included; of how many; seconds to go.

        The time is what the rest takes at the pace so far, or the slowest open task if longer.
        """
        steps, num_steps = sum(self._steps.values()), sum(self._num_steps.values())
        if not self._received or now <= self._begun:
            return steps, num_steps, None
        pace = self._received / (now - self._begun)
        slowest = max((task.eta_s or 0.0 for task in self.tasks()), default=0.0)
        return steps, num_steps, max((num_steps - steps) / pace, slowest)

    def _opened(self, segment: Segment, num_steps: int, now: float) -> _OpenTask:
        """Return the task of a first segment, whose work had begun before it arrived."""
        spec, rows = segment.spec, segment.rows
        number = self._numbers.get(_place(spec), 1)
        words = [segment.task, spec.method, str(number) if number > 1 else ""]
        begun = now - rows.num_rows * (_mean(rows, "wall_ms") or 0.0) / 1e3
        task = _OpenTask(spec.attempt, " ".join(filter(None, words)), num_steps, begun)
        task.marks.append((begun, _steps_taken(rows) - rows.num_rows))
        return task


def _place(spec: TaskSpec) -> Place:
    return spec.meta_step, spec.index


def _numbers(specs: Iterable[TaskSpec]) -> dict[Place, int]:
    """Return which of the tasks of one name each spec's is, from 1, by place."""
    alike: Counter[tuple[object, ...]] = Counter()
    numbers: dict[Place, int] = {}
    for spec in sorted(specs, key=_place):
        same = (spec.split, spec.task_id, spec.method)
        alike[same] += 1
        numbers[_place(spec)] = alike[same]
    return numbers


def _steps_taken(rows: pa.RecordBatch) -> int:
    """Return the inner steps taken in the task, given its newest rows."""
    return int(rows.column("step")[-1].as_py()) + 1


def _mean(rows: pa.RecordBatch, name: str) -> float | None:
    """Return the mean of a column over the rows that have a value; None if none has."""
    mean: float | None = pc.mean(rows.column(name)).as_py()
    return mean
