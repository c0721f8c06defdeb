"""The same loop over real Ray: bitwise the in-process result (I2), whatever is killed (I1)."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import ray._private.worker as ray_driver

import pipeline.schedule
from pipeline import connection
from pipeline.errors import BadInputError, RunFailedError
from pipeline.local import LocalBackend
from pipeline.server import Start
from tests.pipeline.runs_for_tests import make_trainer, parameters, tiny
from tests.processes import start

pytestmark = pytest.mark.ray
EXPERIMENT = {"meta": {"batch_size": 4, "num_steps": 3}}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Parameters after the in-process run."""
    folder = tmp_path_factory.mktemp("local")
    experiment = tiny(**EXPERIMENT)
    trainer, books = make_trainer(experiment, LocalBackend(experiment, Start()), folder)
    trainer.train(3)
    return parameters(folder), books


class Session:
    """A Ray backend and its trainer, closed at the end."""

    def __init__(self, folder, workers=2, start=None, version=0, **sections):
        from pipeline.cluster import RayBackend

        self.experiment = tiny(workers={"count": workers}, **EXPERIMENT, **sections)
        self.backend = RayBackend(self.experiment, start or Start())
        self.trainer, self.books = make_trainer(self.experiment, self.backend, folder, version)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.backend.close()


def after_first_segment(session, action):
    """Do `action` once, when the first segment of the run has reached the driver."""
    take, done = session.trainer._take, []

    def take_then_act(segment):
        record = take(segment)
        if not done:
            done.append(True)
            action(segment)
        return record

    session.trainer._take = take_then_act


def test_one_worker_gives_the_in_process_result_bitwise(local_ray, tmp_path, expected):
    with Session(tmp_path, workers=1) as session:
        session.trainer.train(3)
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])


def test_two_workers_and_three_shards_give_the_same_and_curves_too(local_ray, tmp_path, expected):
    with Session(tmp_path, aggregator={"shards": 3}) as session:
        session.trainer.train(3)
        curves = session.trainer.meta_test(["leap", "scratch"], 2)
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])
    for (step, ours), (_, theirs) in zip(
        session.books.metrics.points, expected[1].metrics.points, strict=True
    ):
        for key in ("train/loss", "train/path_length", "train/loss_last"):
            assert ours[key] == theirs[key], (step, key)
    assert len(curves) == 4


def test_a_worker_killed_in_mid_task_changes_no_bit(local_ray, tmp_path, expected, caplog):
    with Session(tmp_path) as session:
        pids = session.backend.worker_pids()
        after_first_segment(session, lambda _: os.kill(pids[0], signal.SIGKILL))
        session.trainer.train(3)
    assert session.books.counters.retries >= 1
    assert "lost, begun again" in caplog.text
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])
    assert session.books.counters.tasks == 12
    assert session.books.counters.inner_steps == 12 * 9


def test_all_workers_killed_at_once_change_no_bit(local_ray, tmp_path, expected):
    with Session(tmp_path) as session:
        pids = session.backend.worker_pids()
        after_first_segment(session, lambda _: [os.kill(p, signal.SIGKILL) for p in pids])
        session.trainer.train(3)
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])


def test_slices_that_die_with_their_worker_are_computed_again(local_ray, tmp_path, expected):
    """The last segment has reached the driver, its slices have not reached the aggregator."""
    with Session(tmp_path, workers=1) as session:
        fold, lost = session.backend.fold, []

        def lose_the_first_final_segment(segment):
            if segment.final and not lost:
                lost.append(segment.spec)
                for pid in session.backend.worker_pids():
                    os.kill(pid, signal.SIGKILL)
            fold(segment)

        session.backend.fold = lose_the_first_final_segment
        session.trainer.train(3)
    assert session.books.counters.retries >= 1
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])


def test_stop_and_resume_with_another_number_of_workers_changes_no_bit(
    local_ray, tmp_path, expected
):
    with Session(tmp_path, workers=2) as session:
        session.trainer.train(1)
    start = Start(tmp_path / "checkpoints", 1)
    with Session(tmp_path, workers=1, start=start, version=1) as session:
        session.trainer.train(3)
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])


def test_the_driver_sees_references_and_scalars_only(local_ray, tmp_path):
    """I4: what reaches the driver does not grow with the number of parameters."""

    def bytes_a_segment(num_filters):
        with Session(tmp_path / str(num_filters), model={"num_filters": num_filters}) as session:
            seen = []
            fold = session.backend.fold
            session.backend.fold = lambda segment: (seen.append(segment), fold(segment))
            session.trainer.train(1)
            for segment in seen:
                for share in segment.pieces:
                    assert all(isinstance(p.values, local_ray.ObjectRef) for p in share)
            return sum(len(local_ray.cloudpickle.dumps(s)) for s in seen) / len(seen)

    assert bytes_a_segment(64) == pytest.approx(bytes_a_segment(8), rel=0.02)


def test_a_task_that_raises_ends_the_run_with_a_line_and_a_checkpoint(
    local_ray, tmp_path, monkeypatch
):
    with Session(tmp_path) as session:
        session.trainer.train(1)
        monkeypatch.setattr(pipeline.schedule, "sample_meta_batch", lambda *_: [99])
        with pytest.raises(RunFailedError, match=r"task 0 of outer step 2 raised IndexError"):
            session.trainer.train(3)
        assert session.books.checkpoints.steps() == [1]


def test_more_workers_than_cores_is_refused_with_what_there_is(local_ray, tmp_path):
    with pytest.raises(BadInputError, match=r"9 workers of 1 thread.* there are 4"):
        Session(tmp_path, workers=9)


def test_a_gpu_that_is_not_there_is_refused(local_ray, tmp_path):
    from pipeline.cluster import RayBackend

    if local_ray.cluster_resources().get("GPU"):
        pytest.skip("there is a GPU")
    experiment = tiny(workers={"count": 1, "gpus_per_worker": 1.0, "device": "cuda"})
    with pytest.raises(BadInputError, match="there are 0"):
        RayBackend(experiment, Start())


def test_a_dead_aggregator_ends_the_run_and_leaves_the_last_checkpoint(
    local_ray, tmp_path, expected, caplog
):
    with Session(tmp_path, checkpoint={"every": 1}) as session:
        session.trainer.train(1)
        (pid,) = session.backend.shard_pids()
        after_first_segment(session, lambda _: os.kill(pid, signal.SIGKILL))
        with pytest.raises(RunFailedError, match=r"the aggregator was lost: .*[^.]$"):
            session.trainer.train(3)
        assert session.books.checkpoints.steps() == [1]
        assert "the aggregator was lost" not in caplog.text  # the error says it
    start = Start(tmp_path / "checkpoints", 1)
    with Session(tmp_path, start=start, version=1) as session:
        session.trainer.train(3)
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])


def test_workers_that_find_no_room_end_the_run_with_what_is_free(local_ray, tmp_path, monkeypatch):
    import pipeline.cluster

    monkeypatch.setattr(pipeline.cluster, "START_TIMEOUT_S", 1.0)

    @local_ray.remote(num_cpus=4)
    class Hog:
        def here(self):
            return True

    hog = Hog.remote()
    local_ray.get(hog.here.remote())
    try:
        with Session(tmp_path) as session, pytest.raises(RunFailedError, match="free in the clus"):
            session.trainer.train(1)
    finally:
        local_ray.kill(hog)


def test_what_keeps_a_worker_from_starting_is_told_at_once(local_ray, tmp_path, monkeypatch):
    experiment = {"data": {"num_train_tasks": 400}}
    with (
        Session(tmp_path, **experiment) as session,
        pytest.raises(BadInputError, match="alphabets"),
    ):
        session.trainer.train(1)


def test_idle_looks_at_ray_seldom_list_the_nodes_and_one_after_a_loss_does(
    local_ray, tmp_path, monkeypatch
):
    list_nodes, lists = local_ray.nodes, []
    monkeypatch.setattr(local_ray, "nodes", lambda: lists.append(1) or list_nodes())
    monkeypatch.setattr(connection, "LIST_NODES_EVERY_S", 3600.0)
    watch = connection.NodeWatch()
    assert [watch.lost(idle=True) for _ in range(10)] == [""] * 10
    assert len(lists) == 1
    assert watch.lost() == ""
    assert len(lists) == 2


@pytest.mark.parametrize("gone", ["_global_node", "_global_node.dead_processes"])
def test_a_ray_without_its_private_names_counts_as_alive(local_ray, monkeypatch, gone):
    if gone == "_global_node":
        monkeypatch.delattr(ray_driver, gone)
    else:
        monkeypatch.setattr(ray_driver, "_global_node", object())
    assert connection.NodeWatch().lost() == ""


def test_ray_prints_by_itself_again_after_a_run():
    printing = """
import ray._private.worker as ray_driver
from pipeline.cluster import RayBackend
from pipeline.server import Start
from tests.pipeline.runs_for_tests import tiny
before = ray_driver.print_to_stdstream
backend = RayBackend(tiny(workers={"count": 1}), Start())
print(ray_driver.print_to_stdstream is before)
backend.close()
print(ray_driver.print_to_stdstream is before)
"""
    output, errors = start(printing).communicate()
    assert output.split() == ["False", "True"], errors
