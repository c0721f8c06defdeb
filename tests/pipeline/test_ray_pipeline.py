"""The same loop over real Ray: bitwise the in-process result (I2), whatever is killed (I1)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import ray._private.worker as ray_driver

import pipeline.schedule
from pipeline import connection, shard_actors
from pipeline.errors import AggregatorLostError, BadInputError, RunFailedError
from pipeline.failure import POLICY, Kind
from pipeline.local import LocalBackend
from pipeline.messages import TaskSpec
from pipeline.server import Start, write_shard_of
from pipeline.trajectories import read_trajectories
from tests.pipeline.runs_for_tests import make_trainer, parameters, tiny
from tests.processes import start, wait_until

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

        workers = workers if isinstance(workers, dict) else {"count": workers}
        self.experiment = tiny(workers={"count": 2} | workers, **(EXPERIMENT | sections))
        self.backend = RayBackend(self.experiment, start or Start())
        self.trainer, self.books = make_trainer(self.experiment, self.backend, folder, version)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.backend.close()


CANNOT_WRITE = """
import gc, sys, time
from pathlib import Path
from pipeline.cluster import RayBackend
from pipeline.errors import RunFailedError
from pipeline.server import Start, write_shard_of
from tests.pipeline.runs_for_tests import tiny

backend = RayBackend(tiny(workers={"count": 1}, aggregator={"shards": 2}), Start())
try:
    backend.write_checkpoint(Path(sys.argv[1]), 0)
except RunFailedError as error:
    print(error)
gc.collect()
time.sleep(3)
backend.close()
"""


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


def test_shards_that_cannot_write_a_checkpoint_say_so_in_a_line_and_ray_says_nothing(tmp_path):
    """Both fail, and one is asked: Ray would print the trace of the other."""
    process = start(CANNOT_WRITE, tmp_path / "not there")
    said, errors = process.communicate(timeout=120)
    assert said.startswith(f"checkpoint {tmp_path / 'not there'}: cannot be written: No such file")
    assert errors == ""


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


def kill_a_shard_during(session, method, number, at_call=1, stop=signal.SIGKILL):
    """Kill shard `number` as the driver begins `method` for the `at_call`-th time."""
    call, calls = getattr(session.backend, method), []

    def kill_and_call(*arguments):
        calls.append(arguments)
        if len(calls) == at_call:
            os.kill(session.backend.shard_pids()[number], stop)
        return call(*arguments)

    setattr(session.backend, method, kill_and_call)


@pytest.mark.parametrize(
    ("method", "at_call", "optimizer"),
    [
        ("fold", 1, "sgd"),
        ("fold", 9, "adam"),
        ("missing", 2, "adam"),
        ("commit", 1, "sgd"),
        ("commit", 3, "adam"),
    ],
)
def test_a_shard_killed_at_any_moment_changes_no_bit(
    local_ray, tmp_path, expected, caplog, method, at_call, optimizer
):
    outer = {"optimizer": optimizer, "lr": 0.01} if optimizer == "adam" else {}
    wanted = expected[0]
    if outer:
        experiment = tiny(**EXPERIMENT, outer=outer)
        folder = tmp_path / "quiet"
        make_trainer(experiment, LocalBackend(experiment, Start()), folder)[0].train(3)
        wanted = parameters(folder)
    with Session(tmp_path / "run", aggregator={"shards": 2}, outer=outer) as session:
        kill_a_shard_during(session, method, 1, at_call)
        session.trainer.train(3)
    np.testing.assert_array_equal(parameters(tmp_path / "run"), wanted)
    assert "aggregator shard 1 was lost and goes on from outer step" in caplog.text
    assert session.books.counters.tasks == 12
    assert [step for step, _ in session.books.metrics.points] == [1, 2, 3]


def test_a_shard_that_died_after_its_outer_step_has_taken_it_once(local_ray, tmp_path, expected):
    """The other one had taken it too, and only repeats its answer."""
    with Session(tmp_path, aggregator={"shards": 2}) as session:
        shards = session.backend._shards
        answer, killed = shards._answer, []

        def die_after_commit(number, call, timeout_s=None):
            if number == 0 and session.trainer._between_steps is False and not killed:
                for actor in shards._actors:
                    local_ray.get(actor.pid.remote())  # in order: both have committed
                killed.append(session.backend.shard_pids()[0])
                os.kill(killed[0], signal.SIGKILL)
                call = shards._actors[0].pid.remote()  # the answer was lost on its way
            return answer(number, call, timeout_s)

        shards._answer = die_after_commit
        session.trainer.train(3)
    assert killed
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])


def test_a_shard_killed_between_step_and_checkpoint_is_in_the_checkpoint(
    local_ray, tmp_path, expected
):
    with Session(tmp_path, checkpoint={"every": 1}) as session:
        kill_a_shard_during(session, "write_checkpoint", 0, 2)
        session.trainer.train(3)
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])


@pytest.mark.parametrize("first", [True, False], ids=["before it is asked", "while it starts"])
def test_a_shard_killed_while_a_checkpoint_is_loaded_is_started_again(
    local_ray, tmp_path, expected, caplog, first
):
    experiment = tiny(**EXPERIMENT)
    make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)[0].train(1)
    start = Start(tmp_path / "checkpoints", 1)
    with Session(tmp_path, start=start, version=1, aggregator={"shards": 2}) as session:
        pid = session.backend.shard_pids()[1]
        os.kill(pid, signal.SIGKILL if first else signal.SIGSTOP)
        if not first:
            threading.Timer(1.0, os.kill, (pid, signal.SIGKILL)).start()
        session.backend.load(start)
        session.trainer.train(3)
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])
    assert "aggregator shard 1 was lost and is started again" in caplog.text


@pytest.mark.parametrize("who", ["worker", "aggregator"])
def test_a_process_that_hangs_is_replaced_and_changes_no_bit(
    local_ray, tmp_path, expected, caplog, who
):
    with Session(tmp_path, workers={"task_timeout_s": 4.0}) as session:
        session.backend.worker_pids()  # both stand
        pids = {"worker": session.backend.worker_pids, "aggregator": session.backend.shard_pids}
        pid = pids[who]()[0]
        after_first_segment(session, lambda _: os.kill(pid, signal.SIGSTOP))
        session.trainer.train(3)
        until = time.monotonic() + 60
        while alive(pid):  # or it would keep its share of the machine
            assert time.monotonic() < until
            time.sleep(0.1)
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])
    assert "for 4 s (workers.task_timeout_s)" in caplog.text


def alive(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_an_aggregator_that_dies_again_and_again_ends_the_run_and_leaves_the_last_checkpoint(
    local_ray, tmp_path, expected, caplog
):
    with Session(tmp_path, checkpoint={"every": 10}, aggregator={"shards": 2}) as session:
        missing = session.backend.missing

        def kill_and_ask(commit):
            if commit.step == 1:
                os.kill(session.backend.shard_pids()[0], signal.SIGKILL)
            return missing(commit)

        session.backend.missing = kill_and_ask
        with pytest.raises(RunFailedError, match=r"the aggregator was lost 4 times without an"):
            session.trainer.train(3)
        assert session.books.checkpoints.steps() == [1]
    start = Start(tmp_path / "checkpoints", 1)
    with Session(tmp_path, start=start, version=1) as session:
        session.trainer.train(3)
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])


def test_only_the_shard_that_is_gone_is_written_by_the_driver(local_ray, tmp_path, monkeypatch):
    """The others answer late, but they answer: nobody else may write their files meanwhile."""
    here = []

    def write(shard, *arguments):
        here.append(shard.offset)
        return write_shard_of(shard, *arguments)

    monkeypatch.setattr(shard_actors, "write_shard_of", write)
    with Session(tmp_path, checkpoint={"every": 10}, aggregator={"shards": 3}) as session:
        session.trainer.train(1)
        shards = session.backend._shards
        shards._losses = int(POLICY[Kind.AGGREGATOR_DIED].limit)
        pids = session.backend.shard_pids()
        os.kill(pids[1], signal.SIGKILL)
        for pid in (pids[0], pids[2]):
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(2, os.kill, (pid, signal.SIGCONT)).start()
        (tmp_path / "draft").mkdir()
        files = shards.write_checkpoint(tmp_path / "draft", 1)
    assert here == [files[1].offset]
    assert sorted(f.name for f in files) == sorted(f.name for f in (tmp_path / "draft").iterdir())


def test_a_shard_that_dies_while_it_is_put_back_is_put_back_again(local_ray, tmp_path, expected):
    with Session(tmp_path, aggregator={"shards": 2}) as session:
        shards = session.backend._shards
        new_actor, made = shards._new_actor, []

        def new_actor_that_dies():
            made.append(new_actor())
            if len(made) == 1:
                local_ray.kill(made[0])
            return made[-1]

        shards._new_actor = new_actor_that_dies
        kill_a_shard_during(session, "fold", 1, 3)
        session.trainer.train(3)
    assert len(made) == 2
    np.testing.assert_array_equal(parameters(tmp_path), expected[0])


def test_no_shard_is_ahead_of_one_that_was_lost_in_an_outer_step(local_ray, tmp_path):
    """In async mode other tasks can make the step the next time."""
    meta = EXPERIMENT["meta"] | {"mode": "async", "apply_every": 2}
    with Session(tmp_path, meta=meta, aggregator={"shards": 2}) as session:
        commit, refused = session.backend.commit, []

        def kill_and_commit(wanted):
            if wanted.step == 1 and not refused:
                os.kill(session.backend.shard_pids()[0], signal.SIGKILL)
            try:
                return commit(wanted)
            except AggregatorLostError:
                refused.append(wanted)
                actors = session.backend._shards._actors
                for lost in local_ray.get([actor.missing.remote(wanted) for actor in actors]):
                    assert sorted(lost) == sorted(wanted.accepted)
                raise

        session.backend.commit = kill_and_commit
        session.trainer.train(3)
    assert len(refused) == 1
    rows = read_trajectories(tmp_path / "trajectories", ["meta_step", "task"]).to_pylist()
    tasks = {(row["meta_step"], row["task"]) for row in rows}
    assert sorted(step for step, _ in tasks) == [0, 0, 1, 1, 2, 2]
    assert len({task for _, task in tasks}) == 6


def test_a_large_node_that_is_lost_ends_no_run_but_workers_that_never_start_do(local_ray, tmp_path):
    with Session(tmp_path) as session:
        backend = session.backend
        for _ in range(12):
            backend._replace(backend._slots[0], Kind.NODE_LOST, "its node has died")
        for _ in range(10):
            backend._replace(backend._slots[0], Kind.WORKER_DIED, "exit code 1")
        with pytest.raises(RunFailedError, match="11 workers died in a row while they started"):
            backend._replace(backend._slots[0], Kind.WORKER_DIED, "exit code 1")


def test_what_became_of_a_worker_is_what_ray_says():
    from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError

    from pipeline.cluster import kind_of

    assert kind_of(OutOfMemoryError("1 worker(s) were killed")) is Kind.OUT_OF_MEMORY
    assert kind_of(ActorDiedError()) is Kind.WORKER_DIED
    assert kind_of(ActorUnavailableError("it does not answer", None)) is Kind.WORKER_DIED


def test_a_full_disk_at_a_worker_is_told_as_it_is():
    from ray.exceptions import RayTaskError

    from pipeline.cluster import RayBackend, Slot

    full = RunFailedError("checkpoint inside a task: cannot be written: No space left on device")
    slot = Slot(None, None, streams=deque([(TaskSpec(0, 0, 0, "train", 0), None)]))
    with pytest.raises(RunFailedError, match=r"^checkpoint inside a task: cannot"):
        RayBackend._task_raised(None, slot, RayTaskError("run", "a long trace", full))


def test_a_worker_that_hangs_while_it_starts_is_replaced(
    local_ray, tmp_path, expected, monkeypatch, caplog
):
    import pipeline.cluster

    with Session(tmp_path) as session:
        session.backend.worker_pids()  # both stand, and one is asked for anew
        session.backend.events(1.0)
        session.backend.events(1.0)
        first = session.backend._slots[0]
        local_ray.kill(first.actor)
        hung = session.backend._slots[0] = session.backend._start_worker()
        pid = session.backend.worker_pids()[0]
        os.kill(pid, signal.SIGSTOP)
        hung.ready = hung.actor.ready.remote()  # which it will never say
        monkeypatch.setattr(pipeline.cluster, "START_TIMEOUT_S", 1.0)
        time.sleep(1.5)
        session.backend.events(0.1)
        monkeypatch.undo()
        session.trainer.train(3)
        wait_until(lambda: not alive(pid))
    assert "a worker has not started in" in caplog.text
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
from pipeline.server import Start, write_shard_of
from tests.pipeline.runs_for_tests import tiny
before = ray_driver.print_to_stdstream
backend = RayBackend(tiny(workers={"count": 1}), Start())
print(ray_driver.print_to_stdstream is before)
backend.close()
print(ray_driver.print_to_stdstream is before)
"""
    output, errors = start(printing).communicate()
    assert output.split() == ["False", "True"], errors
