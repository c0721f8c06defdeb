"""Returns and advantages against the sums of the papers, and against episodes played alone."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.reinforcement.returns import Rollout, generalized_advantages, n_step_returns
from tests.algorithms.reinforcement.rollouts import random_rollout

fractions = st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])
rollouts = st.builds(
    random_rollout,
    seed=st.integers(0, 10**6),
    length=st.integers(1, 9),
    num_envs=st.integers(1, 4),
    end_rate=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    reset_steps=st.booleans(),
)


def advantage_as_in_the_paper(rollout: Rollout, t: int, env: int, discount, decay) -> float:
    """Eq. 16: the sum of (discount·decay)^l δ_{t+l} up to the end of rollout or episode."""
    if not rollout.valid[t, env]:
        return 0.0
    total = 0.0
    for distance, s in enumerate(range(t, len(rollout.rewards))):
        following = 0.0 if rollout.terminated[s, env] else float(rollout.values[s + 1, env])
        now = float(rollout.values[s, env])
        total += (discount * decay) ** distance * (
            float(rollout.rewards[s, env]) + discount * following - now
        )
        if rollout.terminated[s, env] or rollout.truncated[s, env]:
            break
    return total


def return_as_in_the_paper(rollout: Rollout, t: int, env: int, discount) -> float:
    """Rewards up to the end of rollout or episode, then the value of where that leads."""
    if not rollout.valid[t, env]:
        return float(rollout.values[t, env])
    total, weight = 0.0, 1.0
    for s in range(t, len(rollout.rewards)):
        total += weight * float(rollout.rewards[s, env])
        weight *= discount
        if rollout.terminated[s, env]:
            return total
        if rollout.truncated[s, env]:
            break
    return total + weight * float(rollout.values[s + 1, env])


def by_step(rollout: Rollout, compute) -> torch.Tensor:
    length, num_envs = rollout.rewards.shape
    rows = [[compute(rollout, t, env) for env in range(num_envs)] for t in range(length)]
    return torch.tensor(rows, dtype=torch.float64)


@settings(deadline=None)
@given(rollout=rollouts, discount=fractions, decay=fractions)
def test_advantages_are_the_sum_of_the_paper(rollout, discount, decay):
    expected = by_step(rollout, lambda *at: advantage_as_in_the_paper(*at, discount, decay))
    torch.testing.assert_close(generalized_advantages(rollout, discount, decay), expected)


@settings(deadline=None)
@given(rollout=rollouts, discount=fractions)
def test_n_step_returns_are_the_sum_of_the_paper(rollout, discount):
    expected = by_step(rollout, lambda *at: return_as_in_the_paper(*at, discount))
    torch.testing.assert_close(n_step_returns(rollout, discount), expected)


@settings(deadline=None)
@given(rollout=rollouts, discount=fractions)
def test_without_decay_it_is_the_temporal_difference(rollout, discount):
    following = torch.where(rollout.terminated, 0.0, rollout.values[1:])
    expected = (rollout.rewards + discount * following - rollout.values[:-1]) * rollout.valid
    torch.testing.assert_close(generalized_advantages(rollout, discount, 0.0), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_is_that_of_the_values_and_there_is_no_graph(dtype):
    rollout = random_rollout(1, dtype=dtype)
    rollout.values.requires_grad_()
    for answer in (generalized_advantages(rollout, 0.99, 0.95), n_step_returns(rollout, 0.99)):
        assert answer.dtype is dtype
        assert not answer.requires_grad


def test_true_values_leave_no_advantage_in_a_long_rollout():
    """With a reward of 1 for ever, V = 1 / (1 − discount), also where an episode is cut off."""
    rollout = random_rollout(3, length=500, end_rate=0.05)
    rollout = dataclasses.replace(
        rollout,
        rewards=torch.ones_like(rollout.rewards),
        values=torch.full_like(rollout.values, 100.0),
        terminated=torch.zeros_like(rollout.terminated),
    )
    advantages = generalized_advantages(rollout, 0.99, 0.95)
    torch.testing.assert_close(advantages, torch.zeros_like(advantages), atol=1e-11, rtol=0)


def test_what_lies_beyond_an_end_does_not_matter_even_if_it_is_not_finite():
    rollout = random_rollout(5, length=20)
    assert rollout.terminated[:-1].any()
    assert not rollout.valid.all()
    values, rewards = rollout.values.clone(), rollout.rewards.clone()
    values[1:][rollout.terminated] = torch.nan
    rewards[~rollout.valid] = torch.inf
    spoilt = dataclasses.replace(rollout, values=values, rewards=rewards)
    expected = generalized_advantages(rollout, 0.9, 0.8)
    torch.testing.assert_close(generalized_advantages(spoilt, 0.9, 0.8), expected)


def cart_pole(index: int):
    return lambda: gymnasium.make("CartPole-v1", max_episode_steps=12)


def value(observations: np.ndarray) -> np.ndarray:
    """Some function of the observation, so that a wrong one is noticed."""
    return np.asarray(observations, dtype=np.float64) @ np.array([1.0, 2.0, 3.0, 4.0])


def test_returns_of_a_vector_environment_are_those_of_episodes_played_alone():
    num_envs, length, discount = 3, 60, 0.9
    envs = SyncVectorEnv(
        [cart_pole(i) for i in range(num_envs)], autoreset_mode=AutoresetMode.NEXT_STEP
    )
    actions = np.random.default_rng(2).integers(2, size=(length, num_envs))
    observations, _ = envs.reset(seed=11)
    values, rows, ended = [value(observations)], [], np.zeros(num_envs, dtype=bool)
    for t in range(length):
        valid = ~ended
        observations, rewards, terminated, truncated, _ = envs.step(actions[t])
        values.append(value(observations))
        rows.append((rewards, terminated, truncated, valid))
        ended = terminated | truncated
    envs.close()
    columns = [torch.tensor(np.stack(column)) for column in zip(*rows, strict=True)]
    steps = torch.tensor(actions)
    rollout = Rollout(
        torch.zeros(length, num_envs, 2), torch.tensor(np.stack(values)), steps, *columns
    )
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    returns = n_step_returns(rollout, discount)
    for env in range(num_envs):
        alone = returns_played_alone(actions[:, env], rollout.valid[:, env], 11 + env, discount)
        expected = torch.tensor(alone, dtype=torch.float64)
        torch.testing.assert_close(returns[rollout.valid[:, env], env], expected)


def returns_played_alone(actions, valid, seed: int, discount: float) -> list[float]:
    """Play a single environment with the actions that counted, episode after episode."""
    env = cart_pole(0)()
    env.reset(seed=seed)
    returns: list[float] = []
    rewards: list[float] = []
    for action in actions[valid.numpy()]:
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(float(reward))
        if terminated or truncated:
            returns += discounted(
                rewards, 0.0 if terminated else float(value(observation)), discount
            )
            rewards = []
            observation, _ = env.reset()
    env.close()
    return returns + discounted(rewards, float(value(observation)), discount)


def discounted(rewards: list[float], last: float, discount: float) -> list[float]:
    returns: list[float] = []
    for reward in reversed(rewards):
        last = reward + discount * last
        returns.insert(0, last)
    return returns


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.zeros(7, 4)}, r"values: expected shape \[8, 4\], got \[7, 4\]"),
        ({"valid": torch.ones(7, 1, dtype=torch.bool)}, r"valid: expected shape \[7, 4\]"),
        ({"rewards": torch.zeros(0, 4)}, "rewards: expected shape"),
        ({"rewards": torch.zeros(7)}, "rewards: expected shape"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(changes, message):
    rollout = dataclasses.replace(random_rollout(1), **changes)
    with pytest.raises(ValueError, match=message):
        generalized_advantages(rollout, 0.99, 0.95)


@pytest.mark.parametrize(
    ("discount", "decay", "message"),
    [
        (1.1, 1.0, "discount: expected a number from 0 to 1, got 1.1"),
        (0.9, -0.1, "decay: expected"),
    ],
)
def test_discount_and_decay_outside_0_and_1_are_refused(discount, decay, message):
    with pytest.raises(ValueError, match=message):
        generalized_advantages(random_rollout(1), discount, decay)
