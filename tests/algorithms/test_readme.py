"""The loop in the README of algorithms/ runs as printed and meta-learns an initialisation."""

import re
import textwrap
from pathlib import Path

import pytest
import torch

from algorithms import Leap, ParameterVector
from algorithms.inner_loop import InnerLoop, InnerOptimizer
from tests.fakes import RegressionTask, small_network

README = Path(__file__).parents[2] / "algorithms" / "README.md"
INNER_LR, NUM_INNER_STEPS, NUM_TASKS = 0.02, 10, 4
OUTER_LR = 0.1 / NUM_INNER_STEPS  # as the README advises


def mean_square(answers: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return (answers.squeeze(1) - wanted).square().mean()


def minibatches(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [RegressionTask(3, seed).minibatch(step) for step in range(NUM_INNER_STEPS + 1)]


def code_blocks() -> list[str]:
    """The Python blocks of the README, without the indentation of a list."""
    found = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return [textwrap.dedent(code) for code in found]


def run_readme_loop(seeds, zero_grad: str = "vector.grads.zero_()", spoil=None) -> torch.Tensor:
    """Return the initialisation after a task of each seed; `spoil` is one of NaN inputs."""
    code, _ = code_blocks()
    assert "vector.grads.zero_()" in code
    code = code.replace("vector.grads.zero_()", zero_grad)
    tasks = [minibatches(seed) for seed in seeds]
    if spoil is not None:
        tasks[spoil] = [(torch.nan * inputs, wanted) for inputs, wanted in tasks[spoil]]
    names = {
        "torch": torch,
        "Leap": Leap,
        # float64, so that the comparison below can be strict
        "ParameterVector": lambda module: ParameterVector(module, dtype=torch.float64),
        "model": small_network(),
        "loss_function": mean_square,
        "tasks": tasks,
        "inner_lr": INNER_LR,
        "outer_lr": OUTER_LR,
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
        init = init - OUTER_LR * loop.finish()
    ours = run_readme_loop(range(NUM_TASKS))
    torch.testing.assert_close(ours, init, rtol=1e-12, atol=1e-14)


def test_readme_loop_learns_an_initialisation_that_trains_faster():
    before = run_readme_loop([])
    after = run_readme_loop([*range(NUM_TASKS)] * 30)
    assert mean_loss_while_training(after) < 0.8 * mean_loss_while_training(before)


def test_readme_loop_leaves_out_a_task_that_diverged():
    with_it = run_readme_loop([0, 1, 2], spoil=1)
    assert torch.equal(with_it, run_readme_loop([0, 2]))


def test_readme_loop_refuses_gradients_that_gather_elsewhere():
    with pytest.raises(
        RuntimeError, match=r"vector\.grads\.zero_\(\) or zero_grad\(set_to_none=Fal"
    ):
        run_readme_loop([0], zero_grad="optimizer.zero_grad()")
    kept = run_readme_loop([0, 1], zero_grad="optimizer.zero_grad(set_to_none=False)")
    assert torch.equal(kept, run_readme_loop([0, 1]))


def test_readme_loop_advises_the_outer_learning_rate_that_is_tried_here():
    assert "`outer_lr = 0.1 / K`" in README.read_text(encoding="utf-8")


def test_the_learner_of_the_walkthrough_keeps_what_every_learner_promises():
    from torch.nn.functional import normalize

    from algorithms.episodic.learner import EpisodeLearner
    from tests.algorithms.episodes import image_encoder, image_episode

    _, code = code_blocks()
    names = dict(EpisodeLearner=EpisodeLearner, normalize=normalize)
    exec(compile(code, str(README), "exec"), names)
    learner = names["NearestNeighbour"](image_encoder(), 3).double()
    episode = image_episode()
    result = learner.episode_loss(episode)
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert all(p.grad.abs().max() > 0 for p in learner.parameters())
    learner.eval()
    scores = learner.adapt(episode.support_x, episode.support_y)(episode.query_x).detach()
    support, queries = (
        normalize(learner.encoder(x).flatten(1), dim=1).detach()
        for x in (episode.support_x, episode.query_x)
    )
    for query, row in zip(queries, scores, strict=True):
        for label in range(3):
            nearest = (support[episode.support_y == label] @ query).max()
            assert float(row[label]) == pytest.approx(10 * float(nearest))
    with pytest.raises(ValueError, match="scale: expected a positive number"):
        names["NearestNeighbour"](image_encoder(), 3, scale=0.0)
