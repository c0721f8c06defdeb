from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.environments.episodes import EpisodeStatistics


def by_hand(rewards, terminated, truncated):
    """[T][n] lists → episodes (end, environment, return, steps), and valid, by plain loops."""
    episodes, valid = [], []
    for i in range(len(rewards[0])):
        total, length, resets, mask = 0.0, 0, False, []
        for t in range(len(rewards)):
            mask.append(not resets)
            if resets:
                resets = False
                continue
            total, length = total + rewards[t][i], length + 1
            if terminated[t][i] or truncated[t][i]:
                episodes.append((t, i, total, length))
                total, length, resets = 0.0, 0, True
        valid.append(mask)
    return sorted(episodes), np.array(valid).T


@given(st.data(), st.integers(1, 4), st.integers(1, 20))
def test_episodes_are_those_that_a_loop_would_find(data, num_envs, num_steps):
    draw = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    shape = (num_steps, num_envs)
    rewards = draw.integers(-5, 5, shape).astype(np.float32)
    terminated, truncated = draw.random(shape) < 0.2, draw.random(shape) < 0.1
    for t in range(1, num_steps):  # as NEXT_STEP autoreset gives it: nothing in a reset step
        resets = terminated[t - 1] | truncated[t - 1]
        rewards[t, resets], terminated[t, resets], truncated[t, resets] = 0, False, False
    statistics = EpisodeStatistics(num_envs, frames_per_step=4)
    found, valid = [], []
    for t in range(num_steps):
        finished = statistics.observe(rewards[t], terminated[t], truncated[t])
        valid.append(statistics.valid)
        np.testing.assert_array_equal(finished.env_frames, 4 * finished.env_steps)
        columns = (finished.environments, finished.returns, finished.env_steps)
        found += [(t, *row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    episodes, expected_valid = by_hand(rewards.tolist(), terminated.tolist(), truncated.tolist())
    assert sorted(found) == episodes
    np.testing.assert_array_equal(valid, expected_valid)


def test_reset_forgets_what_was_under_way():
    statistics = EpisodeStatistics(2)
    statistics.observe(np.array([1.0, 5.0]), np.array([True, False]), np.zeros(2, dtype=bool))
    statistics.reset()
    finished = statistics.observe(np.ones(2), np.ones(2, dtype=bool), np.zeros(2, dtype=bool))
    assert statistics.valid.all()
    assert finished.returns.tolist() == [1, 1]
    assert finished.env_steps.tolist() == [1, 1]


def test_small_rewards_are_not_lost_in_long_episodes():
    statistics, never = EpisodeStatistics(1), np.zeros(1, dtype=bool)
    statistics.observe(np.array([2.0**24], dtype=np.float32), never, never)
    for _ in range(3):
        statistics.observe(np.ones(1, dtype=np.float32), never, never)
    finished = statistics.observe(np.zeros(1, dtype=np.float32), ~never, never)
    assert finished.returns[0] == 2**24 + 3
