"""An agent's task: what it plays is masked and counted right, it repeats itself, and it learns."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from algorithms.inner_loop import InnerLoop, InnerOptimizer
from algorithms.models.actor_critic import ActorCritic
from algorithms.models.perceptron import TanhEncoder
from algorithms.parameters import ParameterVector
from algorithms.reinforcement.a2c import A2C
from algorithms.reinforcement.ppo import PPO
from pipeline.environments import AtariEnvironment, AtariOptions, BoxActions, make_environment
from pipeline.errors import EnvironmentFailedError
from pipeline.tasks.reinforcement_task import ReinforcementTask
from pipeline.tasks.rollouts import Player
from tests.pipeline.environments_for_tests import FAILS_AT, failing_environment

NUM_ENVS = 3
CPU = torch.device("cpu")
PONG = AtariOptions(
    max_num_frames_per_episode=90, noop_max=5, stack_num=1, img_height=42, img_width=42
)


@pytest.fixture(autouse=True)
def _one_thread():
    """As in a worker: more would wait for one another in a network this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(observation_size: int = 4, num_outputs: int = 2, continuous: bool = False) -> nn.Module:
    torch.manual_seed(1)
    return ActorCritic(TanhEncoder(observation_size, (16,)), num_outputs, continuous)


class Linear(nn.Module):
    """Outputs and values of images, by fixed weights: no encoder takes frames this small."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, frames):
        level = frames.float().mean(dim=(1, 2, 3)) / 255
        return level[:, None] * torch.arange(self.num_outputs), level


def make_task(agent, seed=0, make=lambda: make_environment("CartPole-v1", NUM_ENVS), **options):
    return ReinforcementTask(make, agent, seed=seed, **{"unroll": 8} | options)


def make_loop(task, optimizer=None, **sizes):
    model = network(**sizes)
    vector = ParameterVector(model)
    vector.bind(model)
    return InnerLoop(model, vector, task, optimizer or InnerOptimizer(lr=0.01))


def in_one_list(environment, actions_taken, seed, reward_clip):
    """Literal loop over steps and copies, without any class of ours."""
    environment.reset(seed)
    ended, totals, lengths = [False] * NUM_ENVS, [0.0] * NUM_ENVS, [0] * NUM_ENVS
    steps, episodes = [], []
    for actions in actions_taken:
        transition = environment.step(actions)
        row = []
        for copy in range(NUM_ENVS):
            valid = not ended[copy]
            reward = float(transition.rewards[copy])
            term, trunc = bool(transition.terminated[copy]), bool(transition.truncated[copy])
            learned = max(-reward_clip, min(reward_clip, reward))
            row.append((learned, term, trunc, valid))
            totals[copy] += reward
            lengths[copy] += valid
            ended[copy] = term or trunc
            if ended[copy]:
                episodes.append((totals[copy], lengths[copy]))
                totals[copy], lengths[copy] = 0.0, 0
        steps.append(row)
    return steps, episodes


@pytest.mark.parametrize(
    ("make", "model", "ends"),
    [
        (lambda: make_environment("CartPole-v1", NUM_ENVS), network(), "terminated"),
        (lambda: AtariEnvironment("pong", NUM_ENVS, PONG), Linear(18), "truncated"),
    ],
    ids=["terminated", "truncated"],
)
def test_rewards_ends_and_masks_are_those_of_a_literal_loop(make, model, ends):
    player = Player(make(), seed=3, reward_clip=0.5, device=CPU)
    played = [player.play(model, 20) for _ in range(4)]  # an episode goes on in the next rollout
    rollouts = [one.rollout for one in played]
    actions = torch.cat([rollout.actions for rollout in rollouts]).numpy()
    fields = ("rewards", "terminated", "truncated", "valid")
    ours = [torch.cat([getattr(r, name) for r in rollouts]).tolist() for name in fields]

    seeds: list[int] = []
    again = make()
    spy = Player(again, seed=3, reward_clip=0, device=CPU)
    reset = again.reset
    again.reset = lambda seed: (seeds.append(seed), reset(seed))[1]
    spy.restart()
    steps, episodes = in_one_list(make(), actions, seeds[0], reward_clip=0.5)

    for place, field in enumerate(ours):
        assert field == [[copy[place] for copy in row] for row in steps]
    returns = np.concatenate([one.episode_returns for one in played]).tolist()
    lengths = np.concatenate([one.episode_lengths for one in played]).tolist()
    assert list(zip(returns, lengths, strict=True)) == episodes != []
    assert np.any(ours[fields.index(ends)])
    assert player.env_steps == np.sum(ours[3]) < actions.size


def test_a2c_learns_from_the_graph_of_the_passes_it_acted_with():
    """Its gradient is that of the loss written out, of fresh passes over the same steps."""
    task, model = make_task(agent := A2C(discount=0.9)), network()
    task.loss(model, 0).backward()
    got = [p.grad.clone() for p in model.parameters()]

    model.zero_grad()
    player = Player(make_environment("CartPole-v1", NUM_ENVS), seed=0, reward_clip=0, device=CPU)
    seen = torch.empty(8, NUM_ENVS, 4)
    with torch.no_grad():
        rollout = player.play(model, 8, seen).rollout
    loss = torch.zeros(())
    for t in range(8):
        for copy in range(NUM_ENVS):
            if not rollout.valid[t, copy]:
                continue
            value_of_next, factor, target, s = rollout.values[8, copy], 1.0, 0.0, t
            while True:
                target += factor * float(rollout.rewards[s, copy])
                factor *= agent.discount
                if rollout.terminated[s, copy]:
                    factor = 0.0
                elif rollout.truncated[s, copy]:
                    value_of_next = rollout.values[s + 1, copy]
                s += 1
                if factor == 0.0 or rollout.truncated[s - 1, copy] or s == 8:
                    break
            target += factor * float(value_of_next)
            output, value = model(seen[t, copy][None])
            log_probs = output.log_softmax(-1)[0]
            entropy = -(log_probs.exp() * log_probs).sum()
            gain = log_probs[rollout.actions[t, copy]] * (target - float(value.detach()))
            loss = loss - gain + 0.5 * (target - value[0]) ** 2 - 0.01 * entropy
    (loss / rollout.valid.sum()).backward()
    for one, parameter in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-5)


def test_rewards_are_clipped_to_learn_from_and_true_in_the_return():
    plain, clipped = (make_task(A2C(), reward_clip=clip) for clip in (0.0, 0.1))
    model = network()
    losses = [task.loss(model, 0) for task in (plain, clipped)]
    assert losses[0] > losses[1]
    figures = [task.training_metrics() for task in (plain, clipped)]
    assert figures[0]["env_steps"] == figures[1]["env_steps"]
    while "episode_return" not in clipped.training_metrics():
        clipped.loss(model, 0)
    metrics = clipped.training_metrics()
    assert float(metrics["episode_return"]) == float(metrics["episode_length"])  # 1 a step


@pytest.mark.parametrize("agent", [A2C(), PPO(num_epochs=2, num_minibatches=3)], ids=["a2c", "ppo"])
def test_the_same_seed_gives_the_same_training_and_another_another(agent):
    records = [make_loop(make_task(agent, seed)).run(9) for seed in (0, 0, 1)]
    assert torch.equal(records[0].loss, records[1].loss)
    assert not torch.equal(records[0].loss, records[2].loss)


def test_figures_of_every_step_are_on_record():
    records = make_loop(make_task(A2C(), unroll=5)).run(12)
    env_steps = records.figures["env_steps"]
    assert env_steps.dtype == torch.float64
    assert (env_steps.diff() > 0).all()
    assert 0.8 * 12 * 5 * NUM_ENVS < env_steps[-1] <= 12 * 5 * NUM_ENVS
    ended = records.figures["episode_return"].isfinite()
    assert ended.any()
    assert not ended.all()
    assert torch.equal(ended, records.figures["episode_length"].isfinite())
    assert records.figures["entropy"].isfinite().all()
    assert records.error.isnan().all()


def test_ppo_acts_for_a_rollout_once_in_so_many_inner_steps():
    records = make_loop(make_task(PPO(num_epochs=2, num_minibatches=3))).run(12)
    assert records.figures["env_steps"].unique().numel() == 2
    with pytest.raises(ValueError, match="does not divide the 24 samples"):
        make_loop(make_task(PPO(num_minibatches=5))).run(1)


@pytest.mark.parametrize(
    ("agent", "unroll", "num_steps"),
    [
        (A2C(0.5, 0.0, 0.98, 0.9, normalize_advantage=True), 16, 200),
        (PPO(num_minibatches=2, gae_lambda=0.9, discount=0.98, entropy_coefficient=0.0), 32, 320),
    ],
    ids=["a2c", "ppo"],
)
def test_an_agent_learns_to_balance_a_pole(agent, unroll, num_steps):
    """Episodes of a random policy last 22 steps on average; these come to hundreds."""
    make = partial(make_environment, "CartPole-v1", 8)
    task = make_task(agent, seed=2, unroll=unroll, reward_clip=0.1, make=make)
    loop = make_loop(task, InnerOptimizer("sgd", lr=0.4, max_grad_norm=0.5))
    before = task.evaluate(loop.model)["return"]
    loop.run(num_steps)
    assert before < 40 < 60 < task.evaluate(loop.model)["return"]


def test_continuous_actions_are_learned_from_too():
    make = partial(make_environment, "Pendulum-v1", NUM_ENVS)
    loop = make_loop(
        make_task(A2C(), make=make), observation_size=3, num_outputs=1, continuous=True
    )
    assert isinstance(make().action_space, BoxActions)
    records = loop.run(5)
    assert records.loss.isfinite().all()
    assert records.figures["env_steps"][-1] == 5 * 8 * NUM_ENVS


def test_a_diverged_policy_still_acts():
    loop = make_loop(make_task(A2C()))
    loop.vector.load(torch.full_like(loop.vector.values, torch.nan))
    assert loop.run(2).loss.isnan().all()


def test_evaluation_is_of_the_first_episode_of_each_copy_and_leaves_no_trace():
    task, same = make_task(A2C()), make_task(A2C())
    model = network()
    first = task.loss(model, 0)
    result = task.evaluate(model)
    assert result == task.evaluate(model)
    assert set(result) == {"return"}
    assert torch.equal(first, same.loss(model, 0))
    assert torch.equal(task.loss(model, 1), same.loss(model, 1))


def test_first_returns_count_nothing_after_the_first_end():
    environment = make_environment("CartPole-v1", NUM_ENVS)
    player = Player(environment, seed=5, reward_clip=0, device=CPU)
    returns = player.first_returns(model := network())
    again = Player(make_environment("CartPole-v1", NUM_ENVS), seed=5, reward_clip=0, device=CPU)
    rollout = again.play(model, int(returns.max()) + 5).rollout
    ended = (rollout.terminated | rollout.truncated).int().argmax(dim=0)
    assert returns.tolist() == (ended + 1).tolist()


def test_a_score_is_normalized_where_it_can_be():
    task = make_task(A2C(), normalized=lambda score: score / 10)
    result = task.evaluate(network())
    assert result["human_normalized"] == result["return"] / 10


@pytest.mark.parametrize("agent", [A2C(), PPO(num_epochs=2, num_minibatches=3)], ids=["a2c", "ppo"])
def test_a_resumed_task_goes_on_counting_with_new_episodes(agent):
    loop = make_loop(make_task(agent))
    loop.run(7)
    state = loop.state_dict()
    resumed = [make_loop(make_task(agent)) for _ in range(2)]
    for other in resumed:
        other.load_state_dict(state)
    records = [other.run(3) for other in resumed]
    assert torch.equal(records[0].loss, records[1].loss)
    assert records[0].figures["env_steps"][0] > loop.task.training_metrics()["env_steps"]


def test_an_environment_that_raises_says_so():
    task = make_task(A2C(), make=failing_environment, unroll=FAILS_AT)
    with pytest.raises(EnvironmentFailedError, match="the wheel came off"):
        task.loss(network(3, 2), 0)


def test_a_task_that_is_dropped_closes_its_environment():
    closed = []
    environment = make_environment("CartPole-v1", NUM_ENVS)
    environment.close = lambda: closed.append(True)
    task = make_task(A2C(), make=lambda: environment)
    del task
    assert closed == [True]
