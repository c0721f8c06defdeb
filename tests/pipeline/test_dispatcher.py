"""Dispatcher over a fake backend: every task ends once, whatever dies on the way."""

from __future__ import annotations

import time
from collections import deque

import pyarrow as pa
import pytest

from pipeline.dispatcher import Counters, Dispatcher
from pipeline.errors import InterruptedRunError, RunFailedError
from pipeline.failure import Kind
from pipeline.interrupt import StopRequest
from pipeline.messages import Segment, TaskFailure, TaskSpec
from tests.pipeline.runs_for_tests import tiny


class FakeBackend:
    """Streams two segments a task; `deaths` says how many attempts at a task die half-way."""

    def __init__(
        self, room: int = 2, deaths: dict[int, int] | None = None, kind: Kind = Kind.WORKER_DIED
    ):
        self.room, self.deaths, self.kind = room, deaths or {}, kind
        self.tasks: deque[list] = deque()
        self.most_in_flight = 0

    def has_room(self):
        return len(self.tasks) < self.room

    def submit(self, spec):
        self.tasks.append([spec, 0])
        self.most_in_flight = max(self.most_in_flight, len(self.tasks))

    def num_in_flight(self):
        return len(self.tasks)

    def events(self, timeout_s):
        if not self.tasks:
            return []
        task = self.tasks.popleft()
        spec, number = task
        if number == 1 and self.deaths.get(spec.index, 0) > spec.attempt:
            waiting = [
                TaskFailure(other, "killed", self.kind, begun=False) for other, _ in self.tasks
            ]
            self.tasks.clear()  # one worker: what waited behind the dead task is lost with it
            return [TaskFailure(spec, "killed", self.kind), *waiting]
        if number == 0:
            task[1] = 1
            self.tasks.appendleft(task)
        rows = pa.RecordBatch.from_pylist([{"loss": 0.0}])
        return [Segment(spec, number, number == 1, True, "task", rows, (), {})]


def specs(count: int) -> list[TaskSpec]:
    return [TaskSpec(0, index, index, "train", 0) for index in range(count)]


def dispatcher(backend, counters=None, stop=None, max_retries=3) -> Dispatcher:
    experiment = tiny(workers={"max_retries": max_retries})
    return Dispatcher(backend, experiment, counters or Counters(), stop or StopRequest())


def test_every_task_ends_once_and_no_more_run_than_there_is_room_for():
    backend = FakeBackend(room=3)
    segments = list(dispatcher(backend).run(specs(7)))
    assert sorted(s.spec.index for s in segments if s.final) == list(range(7))
    assert backend.most_in_flight == 3


def test_a_task_whose_worker_died_begins_again_under_the_next_attempt():
    counters = Counters()
    backend = FakeBackend(deaths={1: 2})
    segments = list(dispatcher(backend, counters).run(specs(3)))
    ended = {s.spec.index: s.spec.attempt for s in segments if s.final}
    assert ended == {0: 0, 1: 2, 2: 0}
    assert [s.number for s in segments if s.spec == specs(2)[1].retry().retry()] == [0, 1]
    assert counters.retries == 2


def test_a_task_that_keeps_losing_its_worker_ends_the_run():
    with pytest.raises(RunFailedError, match="task 0 of outer step 1 was lost 3 times"):
        list(dispatcher(FakeBackend(deaths={0: 9}), max_retries=2).run(specs(1)))


def test_a_node_that_is_taken_away_is_not_held_against_its_tasks():
    backend = FakeBackend(deaths={0: 9}, kind=Kind.NODE_LOST)
    segments = list(dispatcher(backend, max_retries=2).run(specs(1)))
    assert [s.spec.attempt for s in segments if s.final] == [9]


def test_a_task_that_is_lost_again_waits_and_others_go_first():
    begun = time.monotonic()
    order = [s.spec.index for s in dispatcher(FakeBackend(room=1, deaths={0: 2})).run(specs(3))]
    assert time.monotonic() - begun >= 1  # before the second new attempt
    assert order == [0, 0, 1, 1, 2, 2, 0, 0]


def test_a_task_whose_own_code_raised_is_not_tried_again():
    with pytest.raises(RunFailedError, match="task 0 of outer step 1 raised killed"):
        list(dispatcher(FakeBackend(deaths={0: 1}, kind=Kind.TASK_RAISED)).run(specs(1)))


def test_a_request_to_stop_is_seen_between_two_segments():
    stop = StopRequest()
    seen = []

    def run_until_stopped():
        for segment in dispatcher(FakeBackend(), stop=stop).run(specs(5)):
            seen.append(segment)
            stop.signal_name = "SIGTERM"

    with pytest.raises(InterruptedRunError, match="SIGTERM"):
        run_until_stopped()
    assert len(seen) == 1


def test_tasks_that_only_waited_behind_the_dead_one_are_not_charged():
    counters = Counters()
    backend = FakeBackend(room=3, deaths={0: 2})
    segments = list(dispatcher(backend, counters, max_retries=2).run(specs(4)))
    assert {s.spec.index: s.spec.attempt for s in segments if s.final} == {0: 2, 1: 0, 2: 0, 3: 0}
    assert counters.retries == 2


@pytest.mark.parametrize(
    ("spec", "title"),
    [
        (TaskSpec(2, 1, 7, "train", version=2), "task 1 of outer step 3"),
        (TaskSpec(4, 17, 7, "train", version=9), "task 17 of outer step 10"),  # async
        (TaskSpec(2, 1, 7, "test", 2, purpose="evaluate"), "task 1 of the meta-test"),
        (TaskSpec(2, 1, 7, "val", 2, purpose="evaluate"), "task 1 of the validation"),
    ],
)
def test_outer_steps_are_counted_from_one_in_messages(spec, title):
    assert spec.title == title
