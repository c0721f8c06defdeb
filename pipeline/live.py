"""How far the tasks under way are, from the segments that arrive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import count

from pipeline.live_task import LiveTask, steps_taken
from pipeline.messages import Segment, TaskSpec
from pipeline.progress import BatchProgress, TaskProgress

Place = tuple[int, int]  # outer step, place in its meta-batch


class LiveTasks:
    """Keeps what segments say of the tasks of a meta-batch, or of a meta-test, under way.

    At all times:
      - a task is open from the first segment with rows of its newest attempt up to its last one;
      - what is kept of it is of that attempt alone, which may begin in the middle of the task;
      - no two open tasks have one name: of tasks of one name the second, by place, is `name 2`.

    Args:
        planned: Inner steps of the work of each spec; empty where tasks are handed out without
            end, see `wait_for`.
        begun: When the first one could be taken.
    """

    def __init__(self, planned: Mapping[TaskSpec, int], begun: float) -> None:
        self._open: dict[Place, LiveTask] = {}
        self._steps: dict[Place, int] = {}  # inner steps taken, ended tasks included
        self._num_steps = {_place(spec): num_steps for spec, num_steps in planned.items()}
        self._numbers = _numbers(planned)
        self._names: dict[Place, str] = {}  # where tasks are not planned, of those not ended
        self._begun = begun
        self._received = 0  # inner steps, those of attempts that were lost included
        self._wanted = 0  # tasks, where they are not planned
        self._ended: set[Place] = set()  # of those

    def wait_for(self, num_tasks: int) -> None:
        """From now on count the tasks that end, of `num_tasks`; those that are open stay so."""
        self._wanted, self._ended = num_tasks, set()

    def take(self, segment: Segment, num_steps: int, now: float) -> TaskProgress | None:
        """Take in the next segment of a task of `num_steps` inner steps, which arrived at `now`.

        Returns how the task stands; None if it has ended, or has not taken an inner step.
        """
        spec, rows = segment.spec, segment.rows
        place = _place(spec)
        if place in self._open and self._open[place].attempt != spec.attempt:
            del self._open[place]
        if rows.num_rows:
            self._steps[place], self._num_steps[place] = steps_taken(rows), num_steps
            self._received += rows.num_rows
            self._ended.discard(place)  # a task whose slices were lost is begun again
        if segment.final:
            self._end(place)
            return None
        if rows.num_rows:
            if place not in self._open:
                name = self._name(segment)
                self._open[place] = LiveTask.opened(segment, name, num_steps, now)
            self._open[place].add(rows, now)
        task = self._open.get(place)
        return None if task is None else task.progress(spec.index)

    def tasks(self) -> list[TaskProgress]:
        """Return how every open task stands, by place."""
        return [task.progress(place) for (_, place), task in sorted(self._open.items())]

    def batch(self, title: str, shown_after_s: float, now: float) -> BatchProgress:
        """Return how all stand as a whole, and the open ones that began so long ago."""
        long = tuple(task for task in self.tasks() if now - task.begun >= shown_after_s)
        if self._wanted:
            ended = min(len(self._ended), self._wanted)  # slices of one may turn out to be lost
            eta_s = self._next_eta_s()
            return BatchProgress(title, long, ended, self._wanted, eta_s, of_tasks=True)
        steps, num_steps = sum(self._steps.values()), sum(self._num_steps.values())
        return BatchProgress(title, long, steps, num_steps, self._eta_s(num_steps - steps, now))

    def _eta_s(self, left: int, now: float) -> float | None:
        """Return what `left` steps take at the pace so far, or the slowest open task if longer."""
        if not self._received or now <= self._begun:
            return None
        pace = self._received / (now - self._begun)
        slowest = max((task.eta_s or 0.0 for task in self._open.values()), default=0.0)
        return max(left / pace, slowest)

    def _next_eta_s(self) -> float | None:
        """Return when as many tasks as are wanted will have ended: the open ones, then others."""
        tasks = list(self._open.values())
        left = self._wanted - len(self._ended)
        if left <= 0:
            return 0.0
        etas = sorted(task.eta_s for task in tasks if task.eta_s is not None)
        if left <= len(etas):
            return etas[left - 1]
        pace = sum(task.steps_per_s or 0.0 for task in tasks)
        if not pace:
            return None
        steps = sum(task.num_steps - task.steps for task in tasks)
        each = sum(task.num_steps for task in tasks) / len(tasks)  # as long as these are
        return max((steps + (left - len(tasks)) * each) / pace, etas[-1])

    def _end(self, place: Place) -> None:
        self._open.pop(place, None)
        if not self._wanted:
            self._num_steps[place] = self._steps.get(place, 0)  # it may end early, and left out
            return
        self._ended.add(place)
        for kept in (self._steps, self._num_steps, self._names):  # such a run may have millions
            kept.pop(place, None)

    def _name(self, segment: Segment) -> str:
        place = _place(segment.spec)
        name = " ".join(filter(None, (segment.task, segment.spec.method)))
        if place in self._numbers:
            return _numbered(name, self._numbers[place])
        if place not in self._names:
            names = (_numbered(name, number) for number in count(1))
            self._names[place] = next(n for n in names if n not in self._names.values())
        return self._names[place]


def _place(spec: TaskSpec) -> Place:
    return spec.meta_step, spec.index


def _numbers(specs: Mapping[TaskSpec, int]) -> dict[Place, int]:
    """Return which of the tasks of one name each spec's is, from 1, by place."""
    alike: Counter[tuple[object, ...]] = Counter()
    numbers: dict[Place, int] = {}
    for spec in sorted(specs, key=_place):
        same = (spec.split, spec.task_id, spec.method)
        alike[same] += 1
        numbers[_place(spec)] = alike[same]
    return numbers


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name} {number}"
