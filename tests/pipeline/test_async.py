"""Asynchronous outer steps: whichever tasks end, none waits for another, none counts twice."""

from __future__ import annotations

from collections import deque
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dispatcher import Dispatcher
from pipeline.errors import InterruptedRunError
from pipeline.local import LocalBackend
from pipeline.schedule import AsyncSchedule, SyncSchedule, make_schedule
from pipeline.server import Start
from pipeline.trajectories import read_trajectories
from tests.pipeline.runs_for_tests import make_trainer, parameters, tiny


def asynchronous(**meta):
    return tiny(
        meta={"mode": "async", "batch_size": 4, "num_steps": 4, "apply_every": 2, **meta},
        checkpoint={"every": 1},
    )


class Shuffled(LocalBackend):
    """Runs `room` tasks at once, a segment of one after a segment of another, as `order` says."""

    def __init__(self, experiment, start=None, room=3, order=()):
        super().__init__(experiment, start or Start())
        self._room, self._order, self._running = room, deque(order), []
        from pipeline.workers import make_worker

        self._make_worker = lambda: make_worker(experiment)

    def has_room(self):
        return len(self._running) < self._room

    def submit(self, spec):
        params = [shard.params.numpy().copy() for shard in self._shards]
        self._running.append(self._make_worker().run(spec, params))

    def events(self, timeout_s):
        place = self._order.popleft() % len(self._running) if self._order else 0
        segment = next(self._running[place])
        if segment.final:
            self._running.pop(place)
        return [segment]

    def discard(self):
        self._running.clear()

    def give_up(self):
        self.discard()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), apply_every=st.integers(1, 5), until=st.integers(1, 6))
def test_every_task_is_part_of_one_outer_step_whatever_ends_first(seed, apply_every, until):
    random = Random(seed)
    schedule = AsyncSchedule(asynchronous(apply_every=apply_every), 0, {})
    source, running, counted = schedule.specs(until), [], []
    for version in range(until):
        ended = []
        while len(ended) < apply_every:
            running += [spec for spec in [next(source, None)] if spec]
            if len(running) > 3 or random.random() < 0.5 or not running:
                ended.append(running.pop(random.randrange(len(running))))
        keys = [spec.key for spec in ended]
        assert schedule.oldest_open(keys) <= min([s.meta_step for s in running], default=10**9)
        schedule.close(keys, moved=True)
        counted += keys
        # A run that is resumed here hands out the same tasks.
        resumed = AsyncSchedule(
            asynchronous(apply_every=apply_every), version + 1, schedule.state()
        )
        left = sorted(spec.key for spec in resumed.specs(until))
        assert sorted(counted + left) == sorted(set(counted + left))
        assert len(counted + left) == until * apply_every
    assert not running
    assert next(source, None) is None


def test_each_task_begins_at_the_newest_version(tmp_path):
    experiment = asynchronous(max_staleness=100)
    backend = Shuffled(experiment, order=[0, 1, 2] * 20)
    trainer, books = make_trainer(experiment, backend, tmp_path)
    trainer.train(4)
    assert books.counters.tasks == 8
    assert books.counters.dropped == 0
    figures = [values for _, values in books.metrics.points]
    assert figures[0]["outer/staleness_max"] == 0
    assert max(values["outer/staleness_max"] for values in figures) >= 1
    assert figures[-1]["perf/queue_depth"] == 0
    table = read_trajectories(tmp_path / "trajectories", ["task", "step"])
    assert sorted(set(table["task"].to_pylist())) == list(range(8))
    assert table.num_rows == 8 * 9


@pytest.mark.parametrize("stale", ["drop", "downweight"])
def test_a_task_that_comes_too_late_is_dropped_or_counts_less(tmp_path, stale):
    """Task 0 stands still until the others have moved the parameters three times."""
    order = [1, 1, 1, 1, 1, 1] * 3 + [0] * 40
    results = {}
    for bound in (0, 100):
        experiment = asynchronous(max_staleness=bound, stale=stale)
        folder = tmp_path / str(bound)
        trainer, books = make_trainer(experiment, Shuffled(experiment, room=2, order=order), folder)
        trainer.train(4)
        results[bound] = parameters(folder), books
    books = results[0][1]
    assert (
        books.counters.stale
        == books.counters.dropped
        == (books.counters.stale if stale == "drop" else 0)
    )
    assert (books.counters.stale > 0) == (stale == "drop")
    assert results[100][1].counters.stale == 0
    assert not np.array_equal(results[0][0], results[100][0])
    assert books.metrics.points[-1][1]["fault/stale_tasks"] == books.counters.stale


@pytest.mark.parametrize(("running", "apply_every", "bound"), [(8, 1, 4), (16, 2, 4), (4, 1, 0)])
def test_many_tasks_under_way_cannot_make_all_of_each_other_stale(running, apply_every, bound):
    schedule = AsyncSchedule(asynchronous(apply_every=apply_every, max_staleness=bound), 0, {})
    source, open_tasks, moves = schedule.specs(200), deque(), 0
    for _ in range(200):
        while len(open_tasks) < running and (spec := next(source, None)):
            open_tasks.append(spec)
        ended = [open_tasks.popleft() for _ in range(apply_every)]
        counted = [spec for spec in ended if schedule.weight(schedule.staleness(spec))]
        schedule.close([spec.key for spec in ended], moved=bool(counted))
        moves += bool(counted)
    assert moves > 200 * min(1, (bound + 1) * apply_every / running) / 2


def test_more_tasks_under_way_than_may_be_stale_are_warned_of(caplog):
    make_schedule(asynchronous(), 0, {})
    assert not caplog.records
    crowded = tiny(
        meta={"mode": "async", "apply_every": 1, "max_staleness": 1}, workers={"count": 8}
    )
    make_schedule(crowded, 0, {})
    assert "about 16 outer steps pass while a task runs" in caplog.text


def test_weights_fall_with_staleness_beyond_the_bound():
    drop = make_schedule(asynchronous(max_staleness=2), 0, {})
    less = make_schedule(asynchronous(max_staleness=2, stale="downweight"), 0, {})
    assert [drop.weight(s) for s in range(5)] == [1, 1, 1, 0, 0]
    assert [less.weight(s) for s in range(5)] == [1, 1, 1, 1 / 2, 1 / 3]
    assert isinstance(make_schedule(tiny(), 0, {}), SyncSchedule)


def test_one_task_after_the_other_is_the_same_as_sync_with_its_meta_batches(tmp_path):
    """In one process, nothing runs beside a task: an outer step of B tasks in their order."""
    one = asynchronous(apply_every=4, num_steps=3)
    trainer, _ = make_trainer(one, LocalBackend(one, Start()), tmp_path / "async")
    trainer.train(3)
    keys = read_trajectories(tmp_path / "async" / "trajectories", ["meta_step", "task"])
    assert sorted(set(keys["task"].to_pylist())) == list(range(12))
    assert max(values["outer/staleness_max"] for _, values in trainer._books.metrics.points) == 0


def test_a_stopped_run_hands_out_again_what_was_under_way(tmp_path):
    experiment = asynchronous(max_staleness=100)
    trainer, books = make_trainer(experiment, Shuffled(experiment, order=[0, 1, 2] * 9), tmp_path)
    take = trainer._take

    def take_until_stopped(segment):
        record = take(segment)
        if trainer.version == 2:
            trainer._dispatcher._stop.signal_name = "SIGTERM"
        return record

    trainer._take = take_until_stopped
    with pytest.raises(InterruptedRunError):
        trainer.train(4)
    (*_, version) = books.checkpoints.steps()
    assert version == 2
    schedule = books.checkpoints.load(2).meta["schedule"]
    assert len(schedule["open"]) == schedule["next"] - 4 > 0
    resumed, _ = make_trainer(
        experiment, Shuffled(experiment, Start(tmp_path / "checkpoints", 2)), tmp_path, version
    )
    resumed.train(4)
    table = read_trajectories(tmp_path / "trajectories", ["task", "step"])
    pairs = list(zip(*table.to_pydict().values(), strict=True))
    assert len(pairs) == len(set(pairs)) == 8 * 9


def test_a_budget_leaves_what_is_under_way_to_a_later_process(tmp_path):
    experiment = asynchronous(max_staleness=100, max_inner_steps=20)
    backend = Shuffled(experiment, order=[0, 1, 2] * 9)
    trainer, books = make_trainer(experiment, backend, tmp_path)
    trainer.train(4)
    assert (trainer.version, trainer.spent()) == (2, "meta.max_inner_steps")
    assert len(books.checkpoints.load(2).meta["schedule"]["open"]) > 0
    assert len(trainer.meta_test(["leap"], 2)) == 2
    larger = asynchronous(max_staleness=100)
    start = Start(tmp_path / "checkpoints", 2)
    resumed, books = make_trainer(larger, Shuffled(larger, start), tmp_path, 2)
    resumed.train(4)
    table = read_trajectories(tmp_path / "trajectories", ["task", "step"])
    pairs = list(zip(*table.to_pydict().values(), strict=True))
    assert len(pairs) == len(set(pairs)) == 8 * 9


@pytest.mark.ray
def test_workers_on_ray_never_wait_for_one_another(local_ray, tmp_path):
    from pipeline.cluster import RayBackend

    experiment = tiny(
        meta={"mode": "async", "batch_size": 4, "num_steps": 6, "apply_every": 2},
        workers={"count": 2, "queue_depth": 1},
        inner={"num_steps": 8, "segment_steps": 2},
    )
    spent = experiment.model_copy(
        update={"meta": experiment.meta.model_copy(update={"max_inner_steps": 40})}
    )
    backend = RayBackend(experiment, Start())
    try:
        trainer, books = make_trainer(experiment, backend, tmp_path)
        trainer.train(6)
        curves = trainer.meta_test(["leap"], 2)
        backend.load(Start())
        other, _ = make_trainer(spent, backend, tmp_path / "spent")
        other.train(6)
        assert other.version == 3
        assert len(other.meta_test(["leap"], 2)) == 2  # by workers that have nothing else to do
    finally:
        backend.close()
    assert books.counters.tasks == 12
    assert max(v["outer/staleness_max"] for _, v in books.metrics.points) >= 1
    assert books.counters.inner_steps == 12 * 8
    assert np.isfinite(parameters(tmp_path)).all()
    assert len(curves) == 2


def test_the_dispatcher_takes_a_spec_only_when_there_is_room():
    from pipeline.dispatcher import Counters
    from pipeline.interrupt import StopRequest
    from tests.pipeline.test_dispatcher import FakeBackend, specs

    backend, taken = FakeBackend(room=2), []

    def source():
        for spec in specs(5):
            taken.append(spec)
            yield spec

    stream = Dispatcher(backend, 3, Counters(), StopRequest()).run(source())
    next(stream)
    assert len(taken) == 2
    assert len(list(stream)) == 9
