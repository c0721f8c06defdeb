"""What is counted for those who watch a cluster, against what the run itself puts on record."""

from __future__ import annotations

from collections import Counter

from pipeline.dispatcher import Counters, Dispatcher
from pipeline.failure import Kind
from pipeline.interrupt import StopRequest
from pipeline.local import LocalBackend
from pipeline.server import Start
from tests.pipeline.environments_for_tests import FAILING, control
from tests.pipeline.runs_for_tests import make_trainer, tiny
from tests.pipeline.test_dispatcher import FakeBackend, specs


class Counting:
    """Counts in plain sight."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.staleness: list[int] = []

    def segment(self, inner_steps, env_steps):
        self.counts["segments"] += 1
        self.counts["inner_steps"] += inner_steps
        self.counts["env_steps"] += env_steps

    def retry(self, kind):
        self.counts[f"retries of {kind.name}"] += 1

    def dropped(self, num_tasks):
        self.counts["dropped"] += num_tasks

    def outer_step(self, staleness):
        self.counts["outer_steps"] += 1
        self.staleness.append(staleness)


def counted(experiment, folder):
    """A trainer whose books count."""
    trainer, books = make_trainer(experiment, LocalBackend(experiment, Start()), folder)
    books.meter = Counting()
    return trainer, books


def test_steps_and_outer_steps_are_those_on_record(tmp_path):
    trainer, books = counted(tiny(), tmp_path)
    trainer.train(3)
    assert books.counters.inner_steps == 3 * 4 * 9
    assert books.meter.counts == {
        "segments": 3 * 4 * 3,  # nine inner steps, four a segment
        "inner_steps": books.counters.inner_steps,
        "env_steps": 0,
        "dropped": 0,
        "outer_steps": 3,
    }
    assert books.meter.staleness == [0, 0, 0]


def test_env_steps_and_tasks_left_out_are_those_on_record(tmp_path):
    experiment = control(
        environments={"name": FAILING}, inner={"segment_steps": 1}, meta={"max_bad_tasks": 100}
    )
    trainer, books = counted(experiment, tmp_path)
    trainer.train(experiment.meta.num_steps)
    assert books.meter.counts["env_steps"] == books.counters.env_steps > 0
    assert books.meter.counts["dropped"] == books.counters.dropped > 0


def test_a_meta_test_counts_too(tmp_path):
    trainer, books = counted(tiny(), tmp_path)
    trainer.meta_test(["leap"], 2)
    assert books.meter.counts == {"segments": 2 * 2, "inner_steps": 2 * 5, "env_steps": 0}


def test_staleness_is_that_of_the_oldest_task(tmp_path):
    experiment = tiny(meta={"mode": "async", "apply_every": 1, "num_steps": 4})
    trainer, books = counted(experiment, tmp_path)
    trainer.train(4)
    logged = [values["outer/staleness_max"] for _, values in books.metrics.points]
    assert books.meter.staleness == logged


def test_tasks_begun_again_are_counted_by_what_failed():
    meter, counters = Counting(), Counters()
    backend = FakeBackend(deaths={1: 2}, kind=Kind.OBJECT_LOST)
    dispatcher = Dispatcher(backend, tiny(), counters, StopRequest(), meter=meter)
    list(dispatcher.run(specs(3)))
    assert meter.counts == {"retries of OBJECT_LOST": counters.retries}
