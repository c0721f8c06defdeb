"""Runs in environments: trained, meta-tested, on record, whatever an environment does."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch

from pipeline import protocol_words
from pipeline.agents import planned_env_steps
from pipeline.cluster import RayBackend
from pipeline.comparison import compare
from pipeline.config import build_experiment
from pipeline.errors import BadInputError, TaskFailedError
from pipeline.evaluation import Evaluation
from pipeline.local import LocalBackend
from pipeline.messages import TaskSpec
from pipeline.network import build_network, initial_outer_parameters
from pipeline.plots import plot_evaluation
from pipeline.protocols import learner_of, protocol_of
from pipeline.server import Start
from pipeline.tasks import task_family
from pipeline.tasks.environment_pools import ControlPool
from pipeline.trajectories import read_trajectories
from pipeline.trajectory_worker import TrajectoryWorker
from tests.pipeline.environments_for_tests import FAILING, FAILS_AT, HANGING, atari, control
from tests.pipeline.runs_for_tests import make_trainer, parameters

CPU = torch.device("cpu")


def run(experiment, folder, backend=None):
    trainer, books = make_trainer(experiment, backend or LocalBackend(experiment, Start()), folder)
    trainer.train(experiment.meta.num_steps)
    return trainer, books


def meta_tested(experiment, trainer, run_id):
    own, family = experiment.algorithm.name, task_family(experiment, CPU)
    names = [family.task_name("test", i) for i in range(family.num_tasks("test"))]
    curves = trainer.meta_test([own, "scratch"], len(names))
    protocol = protocol_of(experiment, names, family.dataset.digest, family.profile("test"))
    learner = learner_of(experiment, trainer.version)
    return Evaluation(tuple(curves), protocol, own, run_id, learner)


@pytest.mark.parametrize("algorithm", ["leap", "reptile", "fomaml", "finetune"])
def test_every_learner_trains_and_is_tested_in_environments(tmp_path, algorithm):
    experiment = control(algorithm={"name": algorithm, "options": {}}, outer={"lr": 0.01})
    trainer, books = run(experiment, tmp_path)
    assert not np.array_equal(parameters(tmp_path), initial_outer_parameters(experiment).numpy())
    assert books.counters.dropped == 0
    for curve in trainer.meta_test([algorithm, "scratch"], 2):
        assert curve.metrics["return"] > 0
        assert len(curve.returns) == len(curve.env_steps) == 5
        assert math.isfinite(curve.figures()["auc"])


def test_trajectories_and_metrics_hold_the_agents_figures(tmp_path):
    experiment = control(inner={"num_steps": 30, "segment_steps": 8})
    _, books = run(experiment, tmp_path)
    table = read_trajectories(tmp_path / "trajectories")
    first = table.filter((table["meta_step"].to_numpy() == 0) & (table["task"].to_numpy() == 0))
    env_steps = first["env_steps"].to_numpy()
    assert len(env_steps) == 30
    assert (np.diff(env_steps) > 0).all()  # goes on from segment to segment
    assert first["error"].null_count == 30
    assert first["entropy"].null_count == 0
    assert 0 < first["episode_return"].null_count < 30
    counted = table["env_steps"].to_numpy()[table["step"].to_numpy() == 29].sum()
    assert books.counters.env_steps == counted
    points = books.metrics.points[0][1]
    assert points["rl/CartPole-v1/return"] > 5
    assert points["perf/env_steps_per_s"] > 0
    assert "train/error" not in points


def test_a_run_in_games_from_end_to_end(tmp_path):
    experiment = atari()
    trainer, books = run(experiment, tmp_path)
    returns = {key for _, point in books.metrics.points for key in point if key.startswith("rl/")}
    assert returns <= {"rl/pong/return", "rl/breakout/return"}
    evaluation = meta_tested(experiment, trainer, "run")
    assert {curve.task for curve in evaluation.curves} == {"freeway"}
    summary = evaluation.summary()["leap"]
    assert set(summary) == {"auc", "return", "human_normalized"}
    assert summary["human_normalized"]["mean"] == pytest.approx(summary["return"]["mean"] / 29.6)
    conditions = protocol_words.environment_conditions(evaluation.protocol)
    assert "sticky actions 0.25" in conditions
    assert "36x36 grey, 4 frames stacked" in conditions
    assert protocol_words.tested_on(evaluation.protocol) == "freeway, 30 env steps"
    picture = plot_evaluation(evaluation, tmp_path / "returns.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_only_the_encoder_is_shared_where_that_is_asked_for():
    experiment = atari()
    _, vector = build_network(experiment)
    assert len(initial_outer_parameters(experiment)) == vector.head_offset() < vector.size
    everything = atari(model={"shared": "all"})
    assert len(initial_outer_parameters(everything)) == vector.size


@pytest.mark.ray
def test_workers_on_ray_give_bitwise_the_same_parameters_and_returns(tmp_path, local_ray):
    """I2: one process, one worker, two workers."""
    found = []
    for count in (0, 1, 2):
        experiment = control(workers={"count": count})
        backend = (RayBackend if count else LocalBackend)(experiment, Start())
        try:
            trainer, _ = run(experiment, tmp_path / str(count), backend)
            curves = trainer.meta_test(["leap", "scratch"], 2)
        finally:
            backend.close()
        found.append((parameters(tmp_path / str(count)), curves))
    for params, curves in found[1:]:
        np.testing.assert_array_equal(params, found[0][0])
        for one, other in zip(curves, found[0][1], strict=True):
            np.testing.assert_array_equal(one.returns, other.returns)
            assert one.metrics == other.metrics


def test_a_task_whose_environment_raises_is_left_out_counted_and_named(tmp_path, caplog):
    """I7: the run goes on."""
    experiment = control(environments={"num_envs": 1}, meta={"batch_size": 3, "num_steps": 1})
    backend = LocalBackend(experiment, Start())
    fail(backend, 1)
    trainer, books = run(experiment, tmp_path, backend)
    assert books.counters.dropped == 1
    assert books.counters.tasks == 3
    assert "(CartPole-v1 #train-1) left out: environment OuterloopFails-v0: step" in caplog.text
    assert np.isfinite(parameters(tmp_path)).all()
    assert trainer.version == 1
    table = read_trajectories(tmp_path / "trajectories")
    assert "CartPole-v1 #train-1" not in table["task_name"].to_pylist()


def test_too_many_failing_environments_stop_the_run(tmp_path):
    experiment = control(meta={"batch_size": 3, "num_steps": 4, "max_bad_tasks": 5})
    backend = LocalBackend(experiment, Start())
    fail(backend, 0, 1, 2)
    with pytest.raises(TaskFailedError, match="6 tasks in a row were not finite or failed"):
        run(experiment, tmp_path, backend)


def test_a_held_out_task_that_fails_is_left_out_for_every_method(tmp_path, caplog):
    experiment = control(environments={"num_held_out": 3}, meta={"num_steps": 0})
    backend = LocalBackend(experiment, Start())
    fail(backend, 1)
    trainer, books = run(experiment, tmp_path, backend)
    curves = trainer.meta_test(["leap", "scratch"], 3)
    assert [(c.method, c.task[-1]) for c in curves] == [
        ("leap", "0"), ("leap", "2"), ("scratch", "0"), ("scratch", "2")
    ]  # fmt: skip
    assert "meta-test: CartPole-v1 #test-1 left out" in caplog.text
    assert books.counters.dropped == 2
    fail(backend, 0, 1, 2)
    with pytest.raises(TaskFailedError, match="the meta-test has no task left"):
        trainer.meta_test(["leap"], 3)


@pytest.mark.parametrize("count", [0, pytest.param(2, marks=pytest.mark.ray)])
def test_a_task_whose_environment_hangs_is_left_out_counted_and_named(
    tmp_path, caplog, request, count
):
    """I7: in meta-training and in the meta-test, in process and on Ray."""
    if count:
        request.getfixturevalue("local_ray")
    experiment = control(
        environments={"name": HANGING, "num_envs": 1, "num_held_out": 3, "timeout_s": 2},
        meta={"batch_size": 4, "num_steps": 1},
        workers={"count": count},
    )
    backend = (RayBackend if count else LocalBackend)(experiment, Start())
    try:
        trainer, books = run(experiment, tmp_path, backend)
        curves = trainer.meta_test(["leap", "scratch"], 3)
    finally:
        backend.close()
    hung = "OuterloopHangs-v0 #{}: step took over 2 s (environments.timeout_s)"
    assert f"outer step 1: task 0 ({HANGING} #train-1) left out: environment" in caplog.text
    assert caplog.text.count(hung.format("train-1")) == 1
    assert caplog.text.count(hung.format("test-0")) == caplog.text.count(hung.format("test-1")) == 2
    assert [(c.method, c.task[-1]) for c in curves] == [("leap", "2"), ("scratch", "2")]
    assert (books.counters.tasks, books.counters.dropped) == (4, 5)
    assert books.counters.retries == 0
    assert np.isfinite(parameters(tmp_path)).all()


def test_what_hangs_has_no_part_in_the_task_after_it():
    """It holds the model that it was given for as long as it hangs."""
    experiment = control(environments={"timeout_s": 0.2})
    params = [initial_outer_parameters(experiment).numpy()]
    worker, let_go = TrajectoryWorker(experiment), threading.Event()
    model, make = worker.model, worker.family._pool.make

    def make_one_that_hangs(split, number):
        environment = make(split, number)
        environment.step = lambda actions: let_go.wait()
        return environment

    worker.family._pool.make = make_one_that_hangs
    (failed,) = worker.run(TaskSpec(0, 0, 0, "train", 0), params)
    worker.family._pool.make = make
    assert "#train-0: step took over 0.2 s" in failed.failure
    assert worker.model is not model
    after = list(worker.run(TaskSpec(0, 1, 1, "train", 0), params))
    let_go.set()
    alone = list(TrajectoryWorker(experiment).run(TaskSpec(0, 1, 1, "train", 0), params))
    for one, other in zip(after, alone, strict=True):
        assert one.rows["loss"].equals(other.rows["loss"])
        for mine, theirs in zip(one.pieces[0], other.pieces[0], strict=True):
            np.testing.assert_array_equal(mine.values, theirs.values)


@pytest.mark.parametrize("way", ["raises", "hangs"])
def test_an_environment_that_cannot_be_made_any_more_costs_its_task_alone(way, tmp_path, caplog):
    experiment = control(environments={"timeout_s": 0.2})
    backend, let_go = LocalBackend(experiment, Start()), threading.Event()
    pool, made = backend._worker.family._pool, []
    make = pool.make

    def make_but_once(split, number):
        made.append(number)
        if len(made) == 2 and way == "hangs":
            let_go.wait()
        if len(made) == 2:
            raise BadInputError("environment CartPole-v1 cannot be made: no licence is left")
        return make(split, number)

    pool.make = make_but_once
    _, books = run(experiment, tmp_path, backend)
    let_go.set()
    assert books.counters.dropped == 1
    assert books.counters.tasks == experiment.meta.num_steps * experiment.meta.batch_size
    assert {
        "raises": "left out: environment CartPole-v1 cannot be made: no licence is left",
        "hangs": "making it took over 0.2 s (environments.timeout_s)",
    }[way] in caplog.text


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_a_time_limit_changes_no_bit_of_a_task(name):
    found = []
    for timeout_s in (0, 60):
        experiment = control(
            environments={"timeout_s": timeout_s}, agent={"name": name}, workers={"threads": 1}
        )
        params = [initial_outer_parameters(experiment).numpy()]
        worker = TrajectoryWorker(experiment)
        segments = list(worker.run(TaskSpec(0, 0, 0, "test", 0, method="leap"), params))
        segments += list(worker.run(TaskSpec(0, 1, 1, "train", 0), params))
        found.append((segments, worker.vector.values.clone()))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        for column in ("loss", "grad_norm", "path_length", "env_steps", "episode_return"):
            assert one.rows[column].equals(other.rows[column])
        assert one.metrics == other.metrics
    assert torch.equal(found[0][1], found[1][1])


def fail(backend, *task_ids):
    """Give some tasks an environment that raises on its seventh step: of CartPole's shapes."""
    pool, make = backend._worker.family._pool, backend._worker.family._pool.make

    def make_some_failing(split, number):
        environment = make(split, number)
        if number in task_ids:
            from tests.pipeline.environments_for_tests import failing_environment

            step, failing = environment.step, failing_environment()
            failing.reset(0)

            def fail_in_time(actions):
                failing.step(np.zeros(3, np.int64))
                return step(actions)

            environment.step = fail_in_time
        return environment

    pool.make = make_some_failing


def test_physics_of_the_meta_test_are_never_trained_on():
    pool = ControlPool(control(environments={"num_train": 50, "num_held_out": 50}))
    trained, held_out = ([pool.physics(split, i) for i in range(50)] for split in ("train", "test"))
    for name in trained[0]:
        assert not {p[name] for p in trained} & {p[name] for p in held_out}
    again = ControlPool(control(environments={"num_train": 50}))
    assert again.physics("test", 3) == held_out[3]
    other = ControlPool(control(seed=1))
    assert other.physics("test", 3) != held_out[3]


def test_only_physics_that_are_named_vary():
    pool = ControlPool(control(environments={"vary": ["length"]}))
    assert list(pool.physics("train", 0)) == ["length"]


def test_any_registered_environment_is_a_task():
    experiment = control(environments={"name": FAILING, "num_envs": 1})
    family = task_family(experiment, CPU)
    assert family.num_tasks("test") == 2
    model, _ = build_network(experiment)
    task = family.make("train", 0, seed=0)
    assert task.loss(model, 0).isfinite()  # fails at step 7 only
    assert experiment.environments.unroll < FAILS_AT


def test_planned_env_steps_are_those_of_the_rollouts():
    assert planned_env_steps(control(), 6) == 6 * 5 * 4
    ppo = control(agent={"name": "ppo", "num_epochs": 2, "num_minibatches": 2})
    assert planned_env_steps(ppo, 5) == 2 * 5 * 4


def test_runs_in_environments_are_compared_and_only_if_tested_alike(tmp_path):
    runs = []
    for name in ("leap", "reptile"):
        experiment = control(algorithm={"name": name, "options": {}}, meta={"num_steps": 1})
        trainer, _ = run(experiment, tmp_path / name)
        runs.append(meta_tested(experiment, trainer, name))
    folder = tmp_path / "evaluation"
    runs[0].to_parquet(folder)
    runs[0] = Evaluation.from_parquet(folder)
    comparison = compare(runs)
    assert comparison.evaluation.methods == ("leap", "reptile", "scratch")
    assert comparison.training["leap"].num_tasks == 3
    plot_evaluation(comparison.evaluation, tmp_path / "both.png")
    other = control(environments={"unroll": 6}, meta={"num_steps": 0})
    trainer, _ = run(other, tmp_path / "other")
    with pytest.raises(BadInputError, match="tested differently: env_steps is 100 in the one"):
        compare([runs[0], meta_tested(other, trainer, "other")])


def test_parquet_keeps_returns_and_env_steps(tmp_path):
    experiment = control(meta={"num_steps": 0})
    trainer, _ = run(experiment, tmp_path)
    evaluation = meta_tested(experiment, trainer, "run")
    evaluation.to_parquet(tmp_path)
    again = Evaluation.from_parquet(tmp_path)
    for one, other in zip(evaluation.curves, again.curves, strict=True):
        np.testing.assert_array_equal(one.returns, other.returns)
        np.testing.assert_array_equal(one.env_steps, other.env_steps)
    assert again.summary() == evaluation.summary()


BAD = {
    "a held-out game that is trained on": (
        {"task": {"kind": "atari"}, "environments": {"games": ["pong"], "held_out": ["pong"]}},
        "environments.games: 'pong' is held out for the meta-test (environments.held_out)",
    ),
    "an unknown game": (
        {"task": {"kind": "atari"}, "environments": {"games": ["brekout"]}},
        "environments.games: 'brekout' is no Atari game that ALE plays alone "
        "(did you mean breakout",
    ),
    "a game twice": (
        {"task": {"kind": "atari"}, "environments": {"held_out": ["freeway", "freeway"]}},
        "environments.held_out: 'freeway' is there twice",
    ),
    "no environments": (
        {"task": {"kind": "control"}, "environments": {"num_envs": 0}},
        "environments.num_envs: expected a whole number of at least 1",
    ),
    "minibatches that cannot be cut": (
        {"task": {"kind": "control"}, "agent": {"name": "ppo", "num_minibatches": 3}},
        "agent.num_minibatches: 3 minibatches cannot be cut evenly from a rollout of 80 steps",
    ),
    "epochs": (
        {"task": {"kind": "control"}, "inner": {"epochs": 1}},
        "inner.epochs: environments have no epochs: expected 0, got 1",
    ),
    "an encoder of pictures": (
        {"task": {"kind": "atari"}, "model": {"encoder": "conv"}},
        "model.encoder: task.kind=atari takes atari-small or nature, not conv",
    ),
    "a learner of episodes": (
        {"task": {"kind": "control"}, "algorithm": {"name": "prototypical"}},
        "task.kind: prototypical learns from episodes: expected task.kind=episodes, got control",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_configuration_is_refused_in_one_line(case):
    tree, expected = BAD[case]
    encoder = {"encoder": "atari-small" if tree["task"]["kind"] == "atari" else "tanh"}
    tree = {"model": encoder} | tree
    with pytest.raises(BadInputError) as caught:
        build_experiment(tree, "test")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environments", "expected"),
    [
        (
            {"name": "CartPole-v9"},
            r"environments\.name=CartPole-v9: no environment is registered as 'CartPole-v9' "
            r"\(did you mean CartPole-v",
        ),
        ({"vary": ["lenght"]}, r"has no physics 'lenght' \(did you mean 'length'"),
    ],
)
def test_an_environment_that_is_not_there_is_named(environments, expected):
    with pytest.raises(BadInputError, match=expected):
        task_family(control(environments=environments), CPU)


def test_an_encoder_of_images_is_refused_for_vectors():
    experiment = control(model={"encoder": "nature"})
    with pytest.raises(BadInputError, match=r"model\.encoder=nature: CartPole-v1 shows vectors"):
        build_network(experiment)
