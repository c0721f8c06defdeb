"""The loop in the README of algorithms/ runs as printed and meta-learns an initialisation."""

import re
from pathlib import Path

import torch

from algorithms import Leap, ParameterVector
from algorithms.inner_loop import InnerLoop, InnerOptimizer
from tests.fakes import RegressionTask, small_network

README = Path(__file__).parents[2] / "algorithms" / "README.md"
INNER_LR, NUM_INNER_STEPS, NUM_TASKS = 0.02, 10, 4


def mean_square(answers: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return (answers.squeeze(1) - wanted).square().mean()


def run_readme_loop(num_rounds: int, outer_lr: float) -> torch.Tensor:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names = {
        "torch": torch,
        "Leap": Leap,
        # float64, so that the comparison below can be strict
        "ParameterVector": lambda module: ParameterVector(module, dtype=torch.float64),
        "model": small_network(),
        "loss_function": mean_square,
        "tasks": [
            [RegressionTask(3, seed).minibatch(step) for step in range(NUM_INNER_STEPS + 1)]
            for _ in range(num_rounds)
            for seed in range(NUM_TASKS)
        ],
        "inner_lr": INNER_LR,
        "outer_lr": outer_lr,
    }
    exec(compile(code, str(README), "exec"), names)
    return names["init"]


def mean_loss_while_training(init: torch.Tensor) -> float:
    vector = ParameterVector(model := small_network(), dtype=torch.float64)
    losses = []
    for seed in range(NUM_TASKS):
        vector.load(init)
        loop = InnerLoop(model, vector, RegressionTask(3, seed), InnerOptimizer(lr=INNER_LR))
        losses.append(loop.run(NUM_INNER_STEPS).loss.mean())
    return float(torch.stack(losses).mean())


def test_readme_loop_takes_the_steps_that_the_inner_loop_takes():
    vector = ParameterVector(model := small_network(), dtype=torch.float64)
    init = vector.values.clone()
    for seed in range(NUM_TASKS):
        vector.load(init)
        fold = Leap().start(init)
        task = RegressionTask(3, seed)
        loop = InnerLoop(model, vector, task, InnerOptimizer(lr=INNER_LR), fold)
        loop.run(NUM_INNER_STEPS)
        init = init - 0.1 * loop.finish()
    ours = run_readme_loop(num_rounds=1, outer_lr=0.1)
    torch.testing.assert_close(ours, init, rtol=1e-12, atol=1e-14)


def test_readme_loop_learns_an_initialisation_that_trains_faster():
    before = run_readme_loop(num_rounds=0, outer_lr=0.02)
    after = run_readme_loop(num_rounds=30, outer_lr=0.02)
    assert mean_loss_while_training(after) < 0.8 * mean_loss_while_training(before)
