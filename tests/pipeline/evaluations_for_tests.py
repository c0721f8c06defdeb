"""Meta-tests made by hand."""

from dataclasses import replace

import numpy as np

from pipeline.config import build_experiment
from pipeline.evaluation import Evaluation, TaskCurve
from pipeline.protocols import protocol_of

NUM_STEPS = 4
DIGEST = "0123"  # of the data set's content
T_975_OF_2 = 4.302652729911275  # Student's t, two degrees of freedom


def curve(method="leap", task="a", repeat=0, error=0.5, accuracy=0.5, num_steps=NUM_STEPS):
    errors = np.full(num_steps, error, np.float32)
    return TaskCurve(method, task, repeat, 3 * errors, errors, {"accuracy": accuracy, "loss": 1.0})


def protocol(seed=0, tasks=("a", "b", "c"), num_steps=NUM_STEPS, **changes):
    tree = {"seed": seed, "evaluation": {"num_steps": num_steps}} | changes
    return protocol_of(build_experiment(tree, "test"), tasks, DIGEST)


def evaluation(curves, method="leap", run_id="run", learner=None, **changes):
    return Evaluation(tuple(curves), protocol(**changes), method, run_id, learner or {})


def run_of(method, run_id, seed=0, error=0.5, learner=None, **changes):
    """A run's meta-test on three tasks beside scratch, which depends on the seed alone."""
    curves = [curve(method, task, error=error) for task in "abc"]
    curves += [curve("scratch", task, error=0.9 + seed / 100) for task in "abc"]
    return evaluation(curves, method, run_id, learner, seed=seed, **changes)


def only_figures(whole, *metrics):
    """The meta-test as it would be without learning curves, of these metrics alone."""
    none = np.empty(0, np.float32)
    curves = [
        replace(c, losses=none, errors=none, metrics={name: c.metrics[name] for name in metrics})
        for c in whole.curves
    ]
    return replace(whole, curves=tuple(curves))


def in_environments(kind, returns, tasks=("a", "b"), seed=0, repeats=1, **rest):
    """A meta-test of two inner steps a task: the method's return after them, half of it within.

    Of the i-th task it is i more, and of the r-th repeat 10 r more.
    """
    encoder = "tanh" if kind == "control" else "atari-small"
    tree = {"task": {"kind": kind}, "model": {"encoder": encoder}}
    tree |= {"seed": seed, "evaluation": {"num_steps": 2, "repeats": repeats}}
    none = np.full(2, np.nan, np.float32)
    curves = [
        TaskCurve(
            method, task, r, np.zeros(2, np.float32), none, {"return": mean + i + 10 * r},
            returns=np.full(2, mean / 2, np.float32), env_steps=np.array([80, 160]),
        )
        for method, mean in returns.items()
        for i, task in enumerate(tasks)
        for r in range(repeats)
    ]  # fmt: skip
    protocol = protocol_of(build_experiment(tree, "test"), tasks, DIGEST)
    learner = {"environments.games": ["pong"]} if kind == "atari" else {}
    return Evaluation(tuple(curves), protocol, "leap", f"run-{seed}", learner, **rest)
