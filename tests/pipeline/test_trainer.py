"""The meta-training loop in this process: learning, resuming, leaving bad tasks out."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from algorithms.baselines import initial_parameters
from pipeline.errors import InterruptedRunError, RunFailedError
from pipeline.local import LocalBackend
from pipeline.network import build_network, initial_outer_parameters, outer_layout
from pipeline.seeding import derive_seed
from pipeline.server import Start
from pipeline.trajectories import read_trajectories
from tests.pipeline.runs_for_tests import make_trainer, parameters, tiny


def run(experiment, folder, until=None, start=None, version=0):
    backend = LocalBackend(experiment, start or Start())
    trainer, books = make_trainer(experiment, backend, folder, version)
    trainer.train(experiment.meta.num_steps if until is None else until)
    return trainer, books


class PoisonedTask:
    """A task whose loss is not a number from its third step on."""

    def __init__(self, task):
        self._task = task

    def __getattr__(self, name):
        return getattr(self._task, name)

    def loss(self, model, step):
        return self._task.loss(model, step) * (math.nan if step >= 2 else 1.0)


def poison(backend, *task_ids):
    family = backend._worker.family
    make = family.make

    def make_some_poisoned(split, task_id, seed):
        task = make(split, task_id, seed)
        return PoisonedTask(task) if task_id in task_ids else task

    family.make = make_some_poisoned


@pytest.mark.parametrize("algorithm", ["leap", "reptile", "fomaml", "finetune"])
def test_every_learner_moves_its_parameters_and_is_meta_tested(tmp_path, algorithm):
    experiment = tiny(algorithm={"name": algorithm})
    trainer, books = run(experiment, tmp_path)
    assert not np.array_equal(parameters(tmp_path), initial_outer_parameters(experiment).numpy())
    assert books.counters.tasks == 12
    assert books.counters.inner_steps == 12 * 9
    curves = trainer.meta_test([algorithm, "scratch"], 2)
    assert [(c.method, len(c.losses)) for c in curves] == [(algorithm, 5)] * 2 + [
        ("scratch", 5)
    ] * 2
    assert curves[0].task == curves[2].task != curves[1].task
    for curve in curves:
        assert 0 <= curve.metrics["accuracy"] <= 1


def test_methods_of_a_meta_test_see_the_same_minibatches(tmp_path):
    """Scratch against itself: equal curves, so only the initialisation tells methods apart."""
    experiment = tiny()
    trainer, _ = run(experiment, tmp_path, until=0)
    first, second = trainer.meta_test(["scratch"], 2), trainer.meta_test(["scratch"], 2)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.losses, other.losses)


def test_stopping_and_resuming_changes_no_bit(tmp_path):
    for optimizer in ("sgd", "nesterov", "adam", "delayed-nesterov"):
        experiment = tiny(outer={"optimizer": optimizer, "lr": 0.05}, aggregator={"shards": 2})
        whole, parts = tmp_path / optimizer / "whole", tmp_path / optimizer / "parts"
        run(experiment, whole)
        run(experiment, parts, until=1)
        run(experiment, parts, start=Start(parts / "checkpoints", 1), version=1)
        np.testing.assert_array_equal(parameters(whole), parameters(parts))


def test_outer_steps_beyond_the_end_of_a_run_have_no_trajectories(tmp_path):
    """Of a process that died after its last checkpoint, in a run that ends there now."""
    experiment = tiny()
    _, books = run(experiment, tmp_path, until=1)
    books.trajectories.commit(1, [])
    run(experiment, tmp_path, until=1, start=Start(tmp_path / "checkpoints", 1), version=1)
    assert [path.name for path in (tmp_path / "trajectories").iterdir()] == ["meta_step=000000"]


def test_an_interruption_saves_the_last_whole_outer_step(tmp_path):
    experiment = tiny()
    backend = LocalBackend(experiment, Start())
    trainer, books = make_trainer(experiment, backend, tmp_path)
    trainer.train(1)
    trainer._dispatcher._stop.signal_name = "SIGTERM"
    with pytest.raises(InterruptedRunError):
        trainer.train(3)
    assert books.checkpoints.steps() == [1]
    run(experiment, tmp_path, start=Start(tmp_path / "checkpoints", 1), version=1)
    run(experiment, tmp_path / "whole")
    np.testing.assert_array_equal(parameters(tmp_path), parameters(tmp_path / "whole"))


def test_a_task_that_is_not_finite_is_left_out_counted_and_named(tmp_path, caplog):
    """I7: the update is bitwise that of the meta-batch without the bad task."""
    experiment = tiny(meta={"num_steps": 1, "batch_size": 5})
    backend = LocalBackend(experiment, Start())
    poison(backend, 3)
    trainer, books = make_trainer(experiment, backend, tmp_path)
    trainer.train(1)
    assert books.counters.dropped == 1
    name = backend._worker.family.task_name("train", 3)
    assert f"({name}) left out: its loss or gradient is not finite" in caplog.text
    assert np.isfinite(parameters(tmp_path)).all()
    assert books.metrics.points[0][1]["fault/dropped_tasks"] == 1

    layout_experiment = tiny(meta={"num_steps": 1, "batch_size": 5})
    clean = LocalBackend(layout_experiment, Start())
    other, _ = make_trainer(layout_experiment, clean, tmp_path / "clean")
    take = other._take
    bad = [i for i, t in enumerate(_meta_batch(experiment)) if t == 3]

    def skip_the_bad(segment):
        record = take(segment)
        record.finite = record.finite and segment.spec.index not in bad
        return record

    other._take = skip_the_bad
    other.train(1)
    np.testing.assert_array_equal(parameters(tmp_path), parameters(tmp_path / "clean"))


def _meta_batch(experiment):
    from pipeline.tasks import sample_meta_batch

    return sample_meta_batch(experiment, 0)


def test_too_many_bad_tasks_in_a_row_stop_the_run_with_a_checkpoint(tmp_path):
    experiment = tiny(meta={"num_steps": 9, "batch_size": 5, "max_bad_tasks": 7})
    backend = LocalBackend(experiment, Start())
    poison(backend, *range(5))
    trainer, books = make_trainer(experiment, backend, tmp_path)
    with pytest.raises(RunFailedError, match="10 tasks in a row were not finite"):
        trainer.train(9)
    assert books.checkpoints.steps() == [2]
    np.testing.assert_array_equal(
        parameters(tmp_path), initial_outer_parameters(experiment).numpy()
    )


def test_trajectories_hold_every_inner_step_of_every_task_once(tmp_path):
    run(tiny(), tmp_path)
    table = read_trajectories(tmp_path / "trajectories")
    rows = list(zip(*(table[n].to_pylist() for n in ("meta_step", "task", "step")), strict=True))
    assert rows == [(m, t, s) for m in range(3) for t in range(4) for s in range(9)]
    for task in range(4):
        path = [
            r["path_length"] for r in table.to_pylist() if (r["task"], r["meta_step"]) == (task, 0)
        ]
        assert all(a < b for a, b in pairwise(path))


def test_a_multi_headed_task_trains_its_own_output_layer_only(tmp_path):
    experiment = tiny(algorithm={"name": "finetune"}, meta={"batch_size": 2, "num_steps": 1})
    run(experiment, tmp_path)
    layout = outer_layout(experiment, build_network(experiment)[1])
    moved = parameters(tmp_path) != initial_outer_parameters(experiment).numpy()
    heads = moved[layout.body :].reshape(layout.num_heads, layout.head).any(axis=1)
    assert set(np.flatnonzero(heads)) == set(_meta_batch(experiment))


def test_scratch_starts_from_another_initialisation_for_each_task():
    model, _ = build_network(tiny())
    first, second = (
        initial_parameters(model, derive_seed(0, "scratch", task, 0)) for task in range(2)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize("fault", ["trajectories.commit", "metrics.log_metrics", "commit"])
@pytest.mark.parametrize("error", [RunFailedError, KeyboardInterrupt])
def test_a_fault_in_the_middle_of_an_outer_step_never_counts_it_twice(tmp_path, fault, error):
    """Wherever it breaks, the checkpoint that is left resumes to the undisturbed result."""
    experiment = tiny(outer={"optimizer": "adam", "lr": 0.05}, checkpoint={"every": 1})
    run(experiment, tmp_path / "whole")
    backend = LocalBackend(experiment, Start())
    trainer, books = make_trainer(experiment, backend, tmp_path)
    trainer.train(1)
    holder, _, name = fault.rpartition(".")
    broken = getattr(books, holder) if holder else backend
    works = getattr(broken, name)

    def breaks(*arguments):
        if name == "commit" and broken is backend:
            works(*arguments)  # the answer is what is lost
        raise error("no space left")

    setattr(broken, name, breaks)
    with pytest.raises(error):
        trainer.train(3)
    (*_, last) = books.checkpoints.steps()
    assert last == 1
    start = Start(tmp_path / "checkpoints", last)
    _, resumed = run(experiment, tmp_path, start=start, version=last)
    np.testing.assert_array_equal(parameters(tmp_path), parameters(tmp_path / "whole"))
    assert [step for step, _ in resumed.metrics.points] == [2, 3]


@pytest.mark.parametrize("second", ["no space left", "out of file handles"])
def test_what_ends_the_run_is_not_told_again_on_its_way_out(tmp_path, caplog, second):
    trainer, _ = make_trainer(tiny(), LocalBackend(tiny(), Start()), tmp_path)
    reasons = iter(["no space left", second])

    def breaks(*_):
        raise RunFailedError(next(reasons))

    trainer.outer_step = trainer.save = breaks
    with pytest.raises(RunFailedError, match="no space left"):
        trainer.train(1)
    assert next(reasons, None) is None  # it did try to save
    assert [r.message for r in caplog.records] == [second] * (second != "no space left")


def test_a_checkpoint_is_refused_when_the_aggregator_is_at_another_step(tmp_path):
    backend = LocalBackend(tiny(), Start())
    with pytest.raises(ValueError, match="expected outer step 1, the aggregator is at 0"):
        backend.write_checkpoint(tmp_path, 1)


def test_slices_that_are_lost_again_and_again_end_the_run(tmp_path, caplog):
    experiment = tiny(workers={"count": 0, "max_retries": 2})
    backend = LocalBackend(experiment, Start())
    backend.missing = lambda commit: [(0, 1)]
    trainer, books = make_trainer(experiment, backend, tmp_path)
    with pytest.raises(RunFailedError, match="task 1 of outer step 1 was lost 3 times"):
        trainer.train(1)
    assert books.counters.retries == 2
    assert "slices of its outer gradient were lost" in caplog.text


@pytest.mark.parametrize(
    ("budget", "steps"), [({"max_inner_steps": 37}, 2), ({"max_hours": 1e-9}, 1), ({}, 3)]
)
def test_no_outer_step_is_begun_once_a_budget_is_used_up(tmp_path, budget, steps):
    experiment = tiny(meta={"num_steps": 3, "batch_size": 4, **budget})  # of 36 inner steps each
    trainer, books = run(experiment, tmp_path)
    assert trainer.version == steps
    assert books.checkpoints.steps() == [steps]
    assert trainer.spent() == next((f"meta.{key}" for key in budget), "")
    assert books.counters.train_s > 0
    assert len(trainer.meta_test(["leap"], 2)) == 2
    larger = tiny(meta={"num_steps": 3, "batch_size": 4})
    start = Start(tmp_path / "checkpoints", steps)
    run(larger, tmp_path, start=start, version=steps)
    run(larger, tmp_path / "whole")
    np.testing.assert_array_equal(parameters(tmp_path), parameters(tmp_path / "whole"))
