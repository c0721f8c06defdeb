"""ALE's vector environment, game by game, against one plain emulator with the same options."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.environments.atari import AtariEnvironment, AtariOptions
from pipeline.environments.vector import environment_seeds
from tests.pipeline.environments.plain_atari import PlainAtari

# The screen's own size: nothing is resized, so pixels can be compared exactly.
WHOLE_SCREEN = {"img_height": 210, "img_width": 160, "noop_max": 0}
GAMES = (
    *("breakout", "pong", "space_invaders", "qbert", "freeway", "skiing", "bowling"),
    *("ms_pacman", "wizard_of_wor", "krull", "montezuma_revenge", "tennis"),
)
NUM_STEPS = 150


def assert_alike(pixels: np.ndarray, expected: np.ndarray, tolerance: int) -> None:
    if tolerance == 0:
        np.testing.assert_array_equal(pixels, expected)
    else:
        assert np.abs(pixels - expected.astype(np.float64)).max() <= tolerance


def compare(game: str, options: AtariOptions, num_steps: int, tolerance: int = 0) -> dict[str, int]:
    """Step both with the same random actions; return how many episodes ended in which way."""
    environment = AtariEnvironment(game, 2, options)
    seeds = environment_seeds(7, 2)
    plain = [PlainAtari(game, options, int(seed)) for seed in seeds]
    assert environment.action_space.count == len(plain[0].actions)
    draw = np.random.default_rng(3)
    observations = environment.reset(7)
    expected = np.stack([one.reset() for one in plain])
    assert_alike(observations, expected, tolerance)
    ended, ends = [False, False], {"terminated": 0, "truncated": 0}
    for _ in range(num_steps):
        actions = draw.integers(environment.action_space.count, size=2)
        seen = environment.step(actions)
        for i, one in enumerate(plain):
            if ended[i]:  # this step's action is ignored
                frame, reward, terminated, truncated = one.reset(), 0, False, False
            else:
                frame, reward, terminated, truncated = one.step(int(actions[i]))
            assert_alike(seen.observations[i], frame, tolerance)
            assert seen.rewards[i] == reward
            assert seen.terminated[i] == terminated
            assert seen.truncated[i] == truncated
            ended[i] = terminated or truncated
            ends["terminated"] += terminated
            ends["truncated"] += truncated
    environment.close()
    return ends


@pytest.mark.parametrize("game", GAMES)
def test_frames_rewards_and_ends_are_those_of_a_plain_emulator(game):
    # 161 is no multiple of the frame skip: the last step of an episode is a short one.
    options = AtariOptions(max_num_frames_per_episode=161, stack_num=2, **WHOLE_SCREEN)
    ends = compare(game, options, NUM_STEPS)
    assert ends["truncated"] >= 4


def test_a_game_that_is_over_is_terminated_and_begins_again():
    options = AtariOptions(stack_num=1, **WHOLE_SCREEN)
    assert compare("breakout", options, 500) == {"terminated": 4, "truncated": 0}


def test_a_lost_life_ends_the_episode_if_asked_and_begins_the_whole_game_again():
    options = AtariOptions(stack_num=1, episodic_life=True, **WHOLE_SCREEN)
    ends = compare("breakout", options, 200)
    assert ends["terminated"] >= 4
    assert ends["truncated"] == 0


@pytest.mark.parametrize(
    "options",
    [
        AtariOptions(grayscale=False, stack_num=2, **WHOLE_SCREEN),
        AtariOptions(full_action_space=True, **WHOLE_SCREEN),
        AtariOptions(maxpool=False, frameskip=2, use_fire_reset=False, **WHOLE_SCREEN),
    ],
    ids=["colour", "full_action_space", "no_maxpool"],
)
def test_each_option_means_what_it_says(options):
    compare("freeway", options, 40)


@pytest.mark.parametrize("grayscale", [True, False])
def test_small_observations_are_means_over_areas_of_the_screen(grayscale):
    """Within one grey level: ALE resizes with OpenCV, which rounds on its way."""
    options = AtariOptions(noop_max=0, grayscale=grayscale, max_num_frames_per_episode=82)
    compare("breakout", options, 40, tolerance=1)
