"""How tasks under way stand, from the segments that arrive; and who is told of it when."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pipeline.live import LiveTasks
from pipeline.live_report import LiveReport
from pipeline.progress import SilentProgress
from tests.pipeline.live_for_tests import segment, spec

NAN = math.nan


def planned(*specs, steps=100):
    return LiveTasks(dict.fromkeys(specs, steps), 0.0)


def whole(live, now):
    batch = live.batch("", 0.0, now)
    return batch.steps, batch.num_steps, batch.eta_s


def test_a_segment_says_where_its_task_stands():
    live = planned(spec())
    task = live.take(segment(spec(), 0, 3, loss=0.5, returns=[-3.0, NAN, -1.0]), 100, 1.0)
    assert (task.name, task.place, task.steps, task.num_steps) == ("pong", 0, 3, 100)
    assert (task.env_steps, task.episode_return, task.loss) == (12, -2.0, 0.5)
    assert live.tasks() == [task]


def test_a_return_stays_while_no_episode_ends_and_is_none_where_there_are_none():
    live = planned(spec(0), spec(1))
    assert live.take(segment(spec(0), 0, 2, returns=[NAN, NAN]), 100, 1.0).episode_return is None
    live.take(segment(spec(0), 2, 2, returns=[7.0, NAN]), 100, 2.0)
    assert live.take(segment(spec(0), 4, 2, returns=[NAN, NAN]), 100, 3.0).episode_return == 7.0
    image = live.take(segment(spec(1), 0, 2, task="digits"), 100, 3.0)
    assert (image.env_steps, image.episode_return) == (None, None)


def test_the_first_segment_gives_a_speed_and_the_recent_ones_a_newer():
    live = planned(spec(), steps=10_000)
    task = live.take(segment(spec(), 0, 10, wall_ms=100.0), 10_000, 5.0)
    assert task.begun == pytest.approx(4.0)  # ten steps of 0.1 s before it arrived
    assert task.steps_per_s == pytest.approx(10.0)
    assert task.eta_s == pytest.approx(999.0)
    for number in range(1, 100):  # ten times as quick: the slow one is forgotten
        task = live.take(segment(spec(), 10 * number, 10), 10_000, 5.0 + number / 10)
    assert task.steps_per_s == pytest.approx(100.0)
    assert task.eta_s == pytest.approx(90.0)


def test_news_are_overdue_by_the_pace_of_the_task_itself():
    quick, slow = planned(spec()), planned(spec())
    assert quick.take(segment(spec(), 0, 10), 100, 5.0).overdue == pytest.approx(65.0)
    task = slow.take(segment(spec(), 0, 10, wall_ms=5e3), 100, 50.0)  # 50 s a segment
    assert task.overdue == pytest.approx(200.0)


def test_a_task_that_ends_is_forgotten_whether_well_or_not():
    live = planned(spec(0), spec(1), spec(2))
    for index in range(3):
        live.take(segment(spec(index), 0, 10), 100, 1.0)
    assert live.take(segment(spec(0), 10, 90, final=True), 100, 2.0) is None
    assert live.take(segment(spec(1), 10, 0, final=True, failure="it broke"), 100, 2.0) is None
    assert [task.place for task in live.tasks()] == [2]


@pytest.mark.parametrize("first", [0, 60], ids=["from its start", "from its middle"])
def test_a_new_attempt_replaces_the_old_one(first):
    live = planned(spec())
    live.take(segment(spec(), 0, 70, wall_ms=1000.0, returns=[5.0] * 70), 100, 70.0)
    task = live.take(segment(spec(attempt=1), first, 10, wall_ms=100.0), 100, 80.0)
    assert (task.steps, task.episode_return) == (first + 10, None)
    assert task.steps_per_s == pytest.approx(10.0)
    assert [task.steps for task in live.tasks()] == [first + 10]


def test_a_new_attempt_without_rows_ends_the_old_one_and_opens_nothing():
    live = planned(spec())
    assert live.take(segment(spec(), 0, 0), 100, 1.0) is None
    live.take(segment(spec(), 0, 10), 100, 1.0)
    assert live.take(segment(spec(), 10, 0), 100, 1.0).steps == 10
    assert live.take(segment(spec(attempt=1), 0, 0), 100, 2.0) is None
    assert live.tasks() == []


def test_the_whole_counts_ended_tasks_and_those_that_wait():
    live = planned(spec(0), spec(1), spec(2), spec(3))
    assert whole(live, 0.0) == (0, 400, None)
    live.take(segment(spec(0), 0, 100, final=True), 100, 10.0)
    live.take(segment(spec(1), 0, 20), 100, 12.0)
    steps, num_steps, eta_s = whole(live, 12.0)
    assert (steps, num_steps) == (120, 400)
    assert eta_s == pytest.approx(28.0)  # 280 more steps at 10 a second


def test_the_whole_waits_for_its_slowest_task():
    live = planned(spec(0), spec(1))
    live.take(segment(spec(0), 0, 100, final=True), 100, 10.0)
    live.take(segment(spec(1), 0, 10, wall_ms=1000.0), 100, 10.0)
    assert whole(live, 10.0)[2] == pytest.approx(90.0)  # the pace of both gives 9


def test_an_attempt_that_is_lost_takes_its_steps_back_and_a_task_left_out_is_done():
    live = planned(spec(0), spec(1))
    live.take(segment(spec(0), 0, 80), 100, 1.0)
    live.take(segment(spec(0, attempt=1), 0, 10), 100, 2.0)
    assert whole(live, 2.0)[:2] == (10, 200)
    live.take(segment(spec(1), 0, 30, final=True, failure="it broke"), 100, 3.0)
    assert whole(live, 3.0)[:2] == (40, 130)
    live.take(segment(spec(1, attempt=1), 0, 40), 100, 4.0)  # its slices were lost
    assert whole(live, 4.0)[:2] == (50, 200)


def test_tasks_of_one_name_are_numbered_by_place_and_adaptations_named_by_method():
    work = [("leap", 0), ("scratch", 0), ("leap", 1)]
    same = [
        replace(spec(place), task_id=7, purpose="evaluate", method=method, repeat=repeat)
        for place, (method, repeat) in enumerate(work)
    ]
    live = planned(*same)
    for one in reversed(same):
        live.take(segment(one, 0, 10), 100, 1.0)
    assert [task.name for task in live.tasks()] == ["pong leap", "pong scratch", "pong leap 2"]


class Told(SilentProgress):
    def __init__(self):
        self.batches = []

    def tasks(self, batch):
        self.batches.append(batch)


def report(told, **times):
    return LiveReport(lambda spec: 100, told, None, **times)


def test_who_watches_is_told_of_long_tasks_and_of_their_end():
    told = Told()
    live = report(told, told_every_s=0.0)
    live.begin("outer step 1/7", [spec(0), spec(1)])
    live.take(segment(spec(0), 0, 10, wall_ms=100.0))  # a second old
    assert told.batches == []
    live.take(segment(spec(1), 0, 10, wall_ms=400.0))
    (batch,) = told.batches
    assert (batch.title, batch.steps, batch.num_steps) == ("outer step 1/7", 20, 200)
    assert [task.place for task in batch.tasks] == [1]
    live.take(segment(spec(1), 10, 90, final=True))
    assert told.batches[-1].tasks == ()
    live.take(segment(spec(0), 10, 10, wall_ms=0.0))
    assert len(told.batches) == 2


def test_who_watches_is_told_seldom_but_of_an_end_at_once():
    told = Told()
    live = report(told, shown_after_s=0.0, told_every_s=1000.0)
    live.begin("outer step 1/7", [spec(0), spec(1)])
    for first in range(0, 50, 10):
        for index in range(2):
            live.take(segment(spec(index), first, 10))
    assert len(told.batches) == 1
    live.take(segment(spec(0), 50, 50, final=True))
    assert [len(batch.tasks) for batch in told.batches] == [1, 1]
    assert told.batches[1].tasks[0].place == 1


def test_lines_of_a_batch_that_was_given_up_are_gone_when_the_next_begins():
    told = Told()
    live = report(told, shown_after_s=0.0)
    live.begin("outer step 1/7", [spec(0)])
    live.take(segment(spec(0), 0, 10))
    live.begin("meta-test", [spec(0)])
    assert [(batch.title, len(batch.tasks)) for batch in told.batches] == [
        ("outer step 1/7", 1),
        ("meta-test", 0),
    ]


def async_spec(number, attempt=0):
    """Task `number` of a run without barriers: meta-batches of the two tasks 0 and 1."""
    return replace(spec(number, number // 2, attempt), task_id=number % 2)


def stream(live, number, first, count, attempt=0, **others):
    one = async_spec(number, attempt)
    return live.take(segment(one, first, count, f"game {one.task_id}", **others))


def test_tasks_stay_open_from_one_async_outer_step_to_the_next():
    told = Told()
    live = report(told, shown_after_s=0.0, told_every_s=0.0)
    live.begin("outer step 1/7", [], 2)
    for number in range(3):
        stream(live, number, 0, 10)
    stream(live, 1, 10, 90, final=True)
    batch = told.batches[-1]
    assert (batch.steps, batch.num_steps, batch.of_tasks) == (1, 2, True)
    stream(live, 2, 10, 90, final=True)
    assert (told.batches[-1].steps, told.batches[-1].eta_s) == (2, 0.0)
    begun = told.batches[-1].tasks[0].begun
    live.begin("outer step 2/7", [], 2)
    stream(live, 0, 10, 10)
    batch = told.batches[-1]
    assert (batch.title, batch.steps, batch.num_steps) == ("outer step 2/7", 0, 2)
    assert [(task.name, task.steps, task.begun) for task in batch.tasks] == [("game 0", 20, begun)]


def test_an_ended_task_that_is_begun_again_does_not_count_as_ended():
    live = LiveTasks({}, 0.0)
    live.wait_for(2)
    live.take(segment(spec(0), 0, 100, final=True), 100, 1.0)
    assert whole(live, 1.0)[:2] == (1, 2)
    live.take(segment(spec(0, attempt=1), 0, 50), 100, 2.0)
    assert whole(live, 2.0)[:2] == (0, 2)


def test_the_next_async_outer_step_waits_for_the_tasks_that_end_first():
    live = LiveTasks({}, 0.0)
    live.wait_for(2)
    assert whole(live, 0.0) == (0, 2, None)
    for index, wall_ms in enumerate((100.0, 300.0, 200.0)):
        live.take(segment(spec(index), 0, 10, wall_ms=wall_ms), 100, 10.0)
    assert whole(live, 10.0)[2] == pytest.approx(18.0)  # 90 steps of 0.1 and of 0.2 s
    live.wait_for(4)  # one more than are open, which may end before the slowest of them
    assert whole(live, 10.0)[2] == pytest.approx(27.0)
    live.wait_for(6)  # three more, as long as these, at the pace of all
    assert whole(live, 10.0)[2] == pytest.approx(570 / (10 + 10 / 3 + 5))


def test_a_task_drawn_again_while_it_runs_has_a_name_of_its_own_which_a_retry_keeps():
    live = LiveTasks({}, 0.0)
    live.wait_for(2)

    def take(number, attempt=0, final=False):
        one = async_spec(number, attempt)
        return live.take(segment(one, 0, 100 if final else 10, "pong", final), 100, 1.0)

    assert [take(number).name for number in (0, 2, 4)] == ["pong", "pong 2", "pong 3"]
    assert take(0, final=True) is None
    assert take(2, attempt=1).name == "pong 2"
    assert take(6).name == "pong"
