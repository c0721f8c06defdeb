from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.environments.atari import (
    LEAP_OPTIONS,
    NATURE_OPTIONS,
    AtariEnvironment,
    AtariOptions,
    check_game,
    playable_games,
)
from pipeline.environments.atari_games import (
    CLASSIC_GAMES,
    LEAP_EVALUATION,
    LEAP_HELD_OUT,
    LEAP_POOL,
    RANDOM_AND_HUMAN_SCORES,
    human_normalized,
)
from pipeline.errors import BadInputError

STICKY = AtariOptions(repeat_action_probability=0.25, max_num_frames_per_episode=90)


def play(environment: AtariEnvironment, seed: int, num_steps: int = 40) -> list[bytes]:
    """Everything seen under the same random actions, as bytes."""
    draw = np.random.default_rng(0)
    seen = [environment.reset(seed).tobytes()]
    for _ in range(num_steps):
        actions = draw.integers(environment.action_space.count, size=environment.num_envs)
        step = environment.step(actions)
        arrays = (step.observations, step.rewards, step.terminated, step.truncated)
        seen.append(b"".join(array.tobytes() for array in arrays))
    return seen


def test_same_seed_and_actions_give_the_same_whatever_the_threads():
    one, two = (AtariEnvironment("breakout", 4, STICKY, num_threads=n) for n in (1, 2))
    first = play(one, seed=5)
    assert play(two, seed=5) == first
    assert play(one, seed=5) == first  # whatever was played before
    assert play(one, seed=6) != first


def test_instances_do_not_influence_one_another():
    alone = play(AtariEnvironment("pong", 2, STICKY), seed=1)
    environment, other = (AtariEnvironment("pong", 2, STICKY) for _ in range(2))
    other.reset(2)
    assert play(environment, seed=1) == alone
    draw = np.random.default_rng(0)
    environment.reset(1)
    for expected in alone[1:]:
        other.step(np.zeros(2, dtype=np.int64))
        step = environment.step(draw.integers(environment.action_space.count, size=2))
        assert expected.startswith(step.observations.tobytes())


def test_copies_of_a_game_begin_apart():
    """Each draws its own number of idle frames."""
    environment = AtariEnvironment("pong", 8)
    environment.reset(0)
    step = environment.step(np.zeros(8, dtype=np.int64))
    assert len({frames.tobytes() for frames in step.observations}) > 1


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (NATURE_OPTIONS, (4, 84, 84)),
        (LEAP_OPTIONS, (3, 84, 84)),
        (AtariOptions(grayscale=False, stack_num=2, img_height=60, img_width=50), (6, 60, 50)),
    ],
)
def test_images_come_channels_first(options, shape):
    environment = AtariEnvironment("breakout", 2, options)
    observations = environment.reset(0)
    assert environment.observation_shape == shape
    assert observations.shape == (2, *shape)
    assert observations.dtype == environment.observation_dtype == np.uint8
    step = environment.step(np.array([0, 1]))
    assert step.observations.shape == (2, *shape)
    assert step.rewards.dtype == np.float32


def test_colour_frames_are_channels_last_for_torch_without_a_copy():
    environment = AtariEnvironment("breakout", 2, LEAP_OPTIONS)
    images = torch.from_numpy(environment.reset(0))
    assert images.is_contiguous(memory_format=torch.channels_last)
    red, green = images[:, 0].float().mean(), images[:, 1].float().mean()
    assert red > green  # Breakout's upper bricks are red


def test_arrays_may_be_kept():
    environment = AtariEnvironment("pong", 2)
    environment.reset(0)
    kept = environment.step(np.array([2, 3]))
    copies = [array.copy() for array in (kept.observations, kept.rewards, kept.truncated)]
    for _ in range(5):
        environment.step(np.array([3, 2]))
    for array, copy in zip((kept.observations, kept.rewards, kept.truncated), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_rewards_are_the_games_points_not_their_signs():
    environment = AtariEnvironment("space_invaders", 4, AtariOptions(noop_max=0))
    environment.reset(0)
    draw = np.random.default_rng(0)
    rewards = [environment.step(draw.integers(6, size=4)).rewards for _ in range(100)]
    assert np.max(rewards) >= 5


@pytest.mark.parametrize("actions", [[4, 0], [-1, 0], [0, 0, 0], [0.0, 1.0]])
def test_an_action_that_is_none_is_refused_and_the_game_goes_on(actions):
    environment = AtariEnvironment("breakout", 2)
    environment.reset(0)
    with pytest.raises(ValueError, match=r"actions .* expected"):
        environment.step(np.array(actions))
    environment.step(np.array([0, 3]))


@pytest.mark.parametrize(
    ("game", "hint"),
    [
        ("brekout", "breakout"),
        ("Pong", "pong"),
        ("SPACE-INVADERS", "space_invaders"),
        ("combat", "names are like"),  # a ROM, but without a wrapper: it would end the process
        ("x", "names are like"),
    ],
)
def test_an_unknown_game_is_refused_with_the_nearest_names(game, hint):
    with pytest.raises(BadInputError, match=f"^'{game}' is no .*{hint}"):
        AtariEnvironment(game, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frameskip", 0),
        ("stack_num", 0),
        ("img_height", 0),
        ("noop_max", -1),
        ("repeat_action_probability", 1.5),
        ("max_num_frames_per_episode", 0),
    ],
)
def test_options_out_of_range_are_named(key, value):
    with pytest.raises(BadInputError, match=f"{key} is {value}, expected"):
        AtariOptions(**{key: value})


@pytest.mark.parametrize(("num_envs", "num_threads"), [(0, 1), (1, 0)])
def test_no_environments_or_threads_are_refused(num_envs, num_threads):
    with pytest.raises(BadInputError, match="is 0, expected at least 1"):
        AtariEnvironment("pong", num_envs, num_threads=num_threads)


def test_the_lists_name_games_that_can_be_played():
    for game in (*CLASSIC_GAMES, *LEAP_POOL, *LEAP_EVALUATION, *RANDOM_AND_HUMAN_SCORES):
        check_game(game)
    assert len(set(CLASSIC_GAMES)) == 62
    assert len(set(LEAP_POOL)) == 27
    assert set(LEAP_HELD_OUT) < set(LEAP_POOL) < set(CLASSIC_GAMES)
    assert set(CLASSIC_GAMES) < set(playable_games())


@pytest.mark.slow
def test_the_papers_pool_is_the_classic_games_with_at_most_ten_actions():
    from ale_py import ALEInterface, LoggerMode, roms

    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale, small = ALEInterface(), []
    for game in CLASSIC_GAMES:
        ale.loadROM(roms.get_rom_path(game))
        if len(ale.getMinimalActionSet()) <= 10:
            small.append(game)
    assert tuple(small) == LEAP_POOL


def test_normalised_scores_run_from_random_to_human():
    assert human_normalized("breakout", 1.7) == 0
    assert human_normalized("breakout", 30.5) == 1
    assert human_normalized("pong", 21) == pytest.approx((21 + 20.7) / (14.6 + 20.7))
    assert human_normalized("air_raid", 100) is None
