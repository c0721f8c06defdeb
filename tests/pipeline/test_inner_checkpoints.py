"""Long tasks go on from checkpoints inside them: the same result, and little is repeated."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pipeline.journal import TaskJournal
from pipeline.local import LocalBackend
from pipeline.server import Start
from pipeline.trajectories import read_trajectories
from tests.pipeline.runs_for_tests import make_trainer, parameters, tiny

EVERY = 6
LONG = {
    "inner": {"num_steps": 40, "segment_steps": 2, "checkpoint_every": EVERY},
    "meta": {"batch_size": 3, "num_steps": 2},
    "checkpoint": {"every": 1},
}


class Died(BaseException):
    """What stands for the end of the driver's process."""


def long(**sections):
    tree = {name: dict(section) for name, section in LONG.items()}
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return tiny(**tree)


def train(experiment, folder, version=0):
    start = Start(folder / "checkpoints", version) if version else Start()
    backend = LocalBackend(experiment, start)
    trainer, books = make_trainer(experiment, backend, folder, version)
    trainer.train(2)
    return books


def watched(trainer):
    """Return the list that will hold (key, attempt, first step, steps) of every segment."""
    seen, take = [], trainer._take

    def take_and_note(segment):
        steps = segment.rows.column("step").to_pylist()
        if steps:
            seen.append((segment.spec.key, segment.spec.attempt, steps[0], len(steps)))
        return take(segment)

    trainer._take = take_and_note
    return seen


def repeated(seen) -> dict[tuple[int, int], int]:
    """Return how many inner steps of each task reached the driver more than once."""
    counts = Counter((key, step) for key, _, first, n in seen for step in range(first, first + n))
    again: Counter[tuple[int, int]] = Counter()
    for (key, _), count in counts.items():
        again[key] += count - 1
    return again


def trajectory(folder, but=("wall_ms", "attempt")):
    return read_trajectories(folder / "trajectories").drop_columns(list(but))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    books = train(long(inner={"checkpoint_every": 0}), folder)
    return parameters(folder), trajectory(folder), books.metrics.points


def assert_undisturbed(folder, expected):
    np.testing.assert_array_equal(parameters(folder), expected[0])
    assert trajectory(folder).equals(expected[1])


@pytest.mark.parametrize("algorithm", ["leap", "reptile", "fomaml"])
@pytest.mark.parametrize("shards", [1, 3])
def test_checkpoints_change_no_bit_of_the_result(tmp_path, algorithm, shards):
    sections = {"algorithm": {"name": algorithm}, "aggregator": {"shards": shards}}
    plain = train(long(inner={"checkpoint_every": 0}, **sections), tmp_path / "plain")
    kept = train(long(**sections), tmp_path / "kept")
    np.testing.assert_array_equal(parameters(tmp_path / "plain"), parameters(tmp_path / "kept"))
    assert trajectory(tmp_path / "plain").equals(trajectory(tmp_path / "kept"))
    for (_, ours), (_, theirs) in zip(kept.metrics.points, plain.metrics.points, strict=True):
        assert {k: v for k, v in ours.items() if not k.startswith("perf/")} == {
            k: v for k, v in theirs.items() if not k.startswith("perf/")
        }
    assert list((tmp_path / "kept" / "in_flight").iterdir()) == []


@pytest.mark.parametrize("die_after", [1, 4, 20, 22, 33, 60, 64])
def test_a_driver_that_dies_in_mid_task_goes_on_from_there(tmp_path, expected, die_after):
    experiment = long()
    trainer, books = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)
    seen, take = watched(trainer), trainer._take

    def take_until_dead(segment):
        if len(seen) >= die_after:
            raise Died
        return take(segment)

    trainer._take = take_until_dead
    with pytest.raises(Died):
        trainer.train(2)
    steps = books.checkpoints.steps()
    version = steps[-1] if steps else 0
    start = Start(tmp_path / "checkpoints", version) if version else Start()
    resumed, _ = make_trainer(experiment, LocalBackend(experiment, start), tmp_path, version)
    after = watched(resumed)
    resumed.train(2)
    assert_undisturbed(tmp_path, expected)
    assert all(number <= EVERY for number in repeated(seen + after).values())
    assert resumed.inner_steps_taken == sum(number for *_, number in after)


def test_a_finished_task_of_an_open_meta_batch_is_not_run_again(tmp_path, expected, caplog):
    experiment = long()
    trainer, _ = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)
    trainer._backend.commit = lambda commit: (_ for _ in ()).throw(Died())
    with pytest.raises(Died):
        trainer.train(1)
    resumed, books = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)
    seen = watched(resumed)
    resumed.train(1)
    assert seen == []
    assert books.metrics.points[-1][1]["perf/inner_steps_per_s"] == 0
    assert (resumed.inner_steps_taken, books.counters.inner_steps) == (0, 120)
    assert "task 0 of outer step 1 goes on from its inner step 40" in caplog.text
    resumed.train(2)
    assert_undisturbed(tmp_path, expected)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(tmp_path, expected, caplog):
    experiment = long()
    trainer, _ = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)
    seen, take = watched(trainer), trainer._take

    def take_until_dead(segment):
        if len(seen) == 14:  # 28 of 40 steps
            raise Died
        return take(segment)

    trainer._take = take_until_dead
    with pytest.raises(Died):
        trainer.train(1)
    newest = max((tmp_path / "in_flight" / "step-000000-task-000000").glob("state-*"))
    assert newest.name.startswith("state-000000000024-")
    newest.write_bytes(b"nonsense")
    resumed, _ = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)
    after = watched(resumed)
    resumed.train(2)
    assert "wrong checksum" in caplog.text
    assert after[0] == ((0, 0), 0, 18, 2)
    assert_undisturbed(tmp_path, expected)


def test_a_meta_test_goes_on_in_the_middle_of_an_adaptation(tmp_path):
    experiment = long(evaluation={"num_steps": 40})
    whole, _ = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path / "whole")
    expected = whole.meta_test(["leap", "scratch"], 2)

    trainer, _ = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path / "parts")
    take, count = trainer._tasks.take, []

    def take_until_dead(segment):
        count.append(segment)
        if len(count) == 52:
            raise Died
        return take(segment)

    trainer._tasks.take = take_until_dead
    with pytest.raises(Died):
        trainer.meta_test(["leap", "scratch"], 2)
    resumed, _ = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path / "parts")
    take_again, again = resumed._tasks.take, []
    resumed._tasks.take = lambda segment: (again.append(segment), take_again(segment))[1]
    found = resumed.meta_test(["leap", "scratch"], 2)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.losses, other.losses)
        assert (one.method, one.task, one.metrics) == (other.method, other.task, other.metrics)
    assert sum(segment.rows.num_rows for segment in again) <= 4 * 40 - 2 * 51 + EVERY + 2


def test_a_meta_test_that_never_got_on_record_is_not_run_again(tmp_path):
    experiment = long(evaluation={"num_steps": 40})
    first, _ = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)
    expected = first.meta_test(["leap", "scratch"], 2)
    resumed, books = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)
    take, again = resumed._tasks.take, []
    resumed._tasks.take = lambda segment: (again.append(segment), take(segment))[1]
    found = resumed.meta_test(["leap", "scratch"], 2)
    assert sum(segment.rows.num_rows for segment in again) == 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.losses, other.losses)
        assert one.metrics == other.metrics
    books.journals.remove_tests()
    assert list((tmp_path / "in_flight").iterdir()) == []


def test_a_checkpoint_damaged_after_the_driver_looked_costs_an_attempt_not_the_run(
    tmp_path, expected, caplog
):
    """A worker reads it some time later, from a disk that may be another's."""
    experiment = long()
    trainer, _ = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)
    seen, take = watched(trainer), trainer._take

    def take_until_dead(segment):
        if len(seen) == 14:  # 28 of 40 steps
            raise Died
        return take(segment)

    trainer._take = take_until_dead
    with pytest.raises(Died):
        trainer.train(1)
    backend = LocalBackend(experiment, Start())
    resumed, books = make_trainer(experiment, backend, tmp_path)
    submit, damaged = backend.submit, []

    def damage_and_submit(spec):
        if spec.resume == 24:
            damaged.append(next(Path(spec.folder).glob("state-000000000024-*")))
            damaged[-1].write_bytes(b"nonsense")
        submit(spec)

    backend.submit = damage_and_submit
    after = watched(resumed)
    resumed.train(2)
    assert len(damaged) == 1
    assert books.counters.retries == 1
    assert "lost, begun again" in caplog.text
    assert after[0] == ((0, 0), 1, 18, 2)
    assert_undisturbed(tmp_path, expected)


def test_a_driver_may_be_some_segments_behind_its_worker(tmp_path):
    """A checkpoint after each segment: what the driver holds is still one to go on from."""
    from pipeline.messages import BACKPRESSURE_SEGMENTS, TaskSpec
    from pipeline.network import initial_outer_parameters
    from pipeline.workers import make_worker

    experiment = long(inner={"num_steps": 40, "segment_steps": 2, "checkpoint_every": 2})
    folder = tmp_path / "step-000000-task-000000"
    spec = TaskSpec(0, 0, 0, "train", 0, folder=str(folder))
    stream = make_worker(experiment).run(spec, [initial_outer_parameters(experiment).numpy()])
    segments = [next(stream) for _ in range(14)]
    journal = TaskJournal(folder)
    for segment in segments[: -BACKPRESSURE_SEGMENTS - 1]:
        journal.add(segment.rows)
    assert journal.resume_point() == (journal.num_rows, 0)


@pytest.mark.ray
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_killed_worker_repeats_at_most_the_steps_since_its_last_checkpoint(
    local_ray, tmp_path, expected, share, caplog
):
    from pipeline.cluster import RayBackend

    experiment = long(workers={"count": 1})
    backend = RayBackend(experiment, Start())
    try:
        trainer, books = make_trainer(experiment, backend, tmp_path)
        seen, take, killed = watched(trainer), trainer._take, []
        (pid,) = backend.worker_pids()

        def take_and_kill(segment):
            record = take(segment)
            if not killed and segment.spec.index == 1 and record.num_steps >= share * 40:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)
            return record

        trainer._take = take_and_kill
        trainer.train(2)
    finally:
        backend.close()
    assert books.counters.retries == 1
    first = [one for one in seen if one[0] == (0, 1)]
    assert {attempt for _, attempt, _, _ in first} == {0, 1}
    (resumed_at, *_) = [step for _, attempt, step, _ in first if attempt == 1]
    last_seen = max(step + n for _, attempt, step, n in first if attempt == 0)
    assert resumed_at % EVERY == 0
    assert resumed_at > 0
    assert last_seen - resumed_at <= EVERY + 2  # and the segment on its way
    assert_undisturbed(tmp_path, expected)
    assert books.counters.inner_steps == 2 * 3 * 40  # the outer update happened once
    assert trainer.inner_steps_taken == 2 * 3 * 40  # all of them by this process


def test_losses_count_anew_once_a_task_has_come_further():
    from pipeline.messages import TaskSpec

    spec = TaskSpec(0, 0, 0, "train", 0)
    for step in (100, 200, 300, 400):
        spec = spec.retry().resumed(step, "folder")
    assert (spec.attempt, spec.losses, spec.resume) == (4, 1, 400)
    spec = spec.retry().resumed(400, "folder")
    assert spec.losses == 2


@pytest.mark.parametrize("agent", ["a2c", "ppo"])
@pytest.mark.parametrize("restart", [True, False])
def test_an_environment_goes_on_with_new_episodes_and_says_so(tmp_path, caplog, agent, restart):
    """If all tasks begin new ones at their checkpoints, the result is that of a quiet machine."""
    experiment = tiny(
        task={"kind": "control", "batch_size": 2},
        environments={
            "name": "CartPole-v1",
            "num_train": 2,
            "num_held_out": 1,
            "num_envs": 4,
            "restart_at_checkpoints": restart,
        },
        agent={"name": agent},
        model={"encoder": "tanh"},
        inner={"num_steps": 40, "segment_steps": 2, "checkpoint_every": EVERY},
        meta={"batch_size": 1, "num_steps": 1},
    )
    quiet, _ = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path / "quiet")
    quiet.train(1)
    folder = tmp_path / "broken"
    trainer, _ = make_trainer(experiment, LocalBackend(experiment, Start()), folder)
    seen, take = watched(trainer), trainer._take

    def take_until_dead(segment):
        if len(seen) == 10:
            raise Died
        return take(segment)

    trainer._take = take_until_dead
    with pytest.raises(Died):
        trainer.train(1)
    resumed, books = make_trainer(experiment, LocalBackend(experiment, Start()), folder)
    resumed.train(1)
    assert "goes on from its inner step 18; its environments begin new episodes" in caplog.text
    table = read_trajectories(folder / "trajectories")
    assert table["step"].to_pylist() == list(range(40))
    env_steps = table["env_steps"].to_pylist()
    assert env_steps == sorted(env_steps)
    assert books.counters.env_steps == env_steps[-1]
    assert resumed.inner_steps_taken == 40 - 18
    assert resumed.env_steps_taken == env_steps[-1] - env_steps[17]
    assert np.array_equal(parameters(folder), parameters(tmp_path / "quiet")) == restart
    assert trajectory(folder).equals(trajectory(tmp_path / "quiet")) == restart


def test_snapshots_are_the_parameters_on_the_way(tmp_path):
    experiment = long(inner={"snapshot_every": 20, "checkpoint_every": 0})
    train(experiment, tmp_path)
    files = sorted(Path(tmp_path / "snapshots").rglob("*.safetensors"))
    assert len(files) == 2 * 3 * 2  # outer steps, tasks, snapshots
    assert files[0].relative_to(tmp_path / "snapshots").as_posix() == (
        "step-000000-task-000000/params-000000000020.safetensors"
    )
    middle, end = (safetensors.numpy.load_file(file)["params"] for file in files[:2])
    assert middle.shape == parameters(tmp_path).shape
    assert not np.array_equal(middle, end)
