"""Environments that can be looked at: the same play as the learner's, in pictures."""

import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from pipeline.environments import AtariEnvironment, AtariOptions, WatchedControl, WatchedGame
from pipeline.environments.atari import LEAP_OPTIONS
from pipeline.errors import BadInputError, EnvironmentFailedError

STICKY = AtariOptions(repeat_action_probability=0.25, max_num_frames_per_episode=1200)
OPTIONS = {
    "sticky": STICKY,
    "a life is an episode": replace(STICKY, episodic_life=True, frameskip=3, noop_max=7),
    "colour, all actions, no fire": replace(
        LEAP_OPTIONS,
        full_action_space=True,
        use_fire_reset=False,
        maxpool=False,
        max_num_frames_per_episode=1200,
    ),
}
NUM_STEPS = 700


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("game", ["breakout", "pong", "air_raid", "up_n_down"])
def test_screen_and_learner_agree_on_rewards_and_endings_at_every_step(game, options):
    watched = WatchedGame(game, options)
    watched.reset(5)
    generator = np.random.default_rng(0)
    ends, rewards = 0, 0.0
    for _ in range(NUM_STEPS):
        actions = generator.integers(0, watched.action_space.count, 1)
        seen, shown = watched.seen.step(actions), watched.screen.step(actions)
        for name in ("rewards", "terminated", "truncated"):
            assert getattr(seen, name) == getattr(shown, name)
        ends += int(seen.terminated[0] or seen.truncated[0])
        rewards += abs(float(seen.rewards[0]))
    assert ends > 0  # so that new episodes were met too
    assert rewards > 0 or game == "breakout"  # where chance meets the ball now and then
    watched.close()


def test_the_learner_sees_what_it_would_see_alone():
    watched, alone = WatchedGame("pong", STICKY), AtariEnvironment("pong", 1, STICKY)
    np.testing.assert_array_equal(watched.reset(5), alone.reset(5))
    for action in np.random.default_rng(0).integers(0, 6, (400, 1)):
        seen, expected = watched.step(action), alone.step(action)
        np.testing.assert_array_equal(seen.observations, expected.observations)
        assert (seen.rewards, seen.truncated) == (expected.rewards, expected.truncated)
    watched.close()
    alone.close()


def test_a_screen_that_is_ahead_is_noticed():
    watched = WatchedGame("breakout", STICKY)
    watched.reset(5)
    watched.screen.step(np.array([0]))

    def play_on():
        for _ in range(NUM_STEPS):
            watched.step(np.array([0]))

    with pytest.raises(EnvironmentFailedError, match="differ in truncated"):
        play_on()
    watched.close()


def test_frame_is_the_screen_at_the_moment_the_learner_sees():
    full = AtariOptions(grayscale=False, stack_num=1, img_height=210, img_width=160)
    watched = WatchedGame("space_invaders", full)
    observations = watched.reset(1)
    for action in (0, 1, 2, 3):
        np.testing.assert_array_equal(watched.frame(), observations[0].transpose(1, 2, 0))
        observations = watched.step(np.array([action])).observations
    assert (watched.frame().shape, watched.frames_per_s) == ((210, 160, 3), 15)
    assert len(np.unique(watched.frame().reshape(-1, 3), axis=0)) > 3
    watched.close()


class Drawn(gymnasium.Env):
    """Draws a bar as long as the episode so far; or what it is told to."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (3,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode=None, picture=None):
        self.render_mode, self.picture, self.num_steps = render_mode, picture, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.num_steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.num_steps += 1
        return np.zeros(3, np.float32), 2.0, self.num_steps == 7, False, {}

    def render(self):
        if self.picture is not None:
            return self.picture
        frame = np.zeros((12, 16, 3), np.uint8)
        frame[: self.num_steps] = 255
        return frame


@pytest.fixture
def drawn():
    gymnasium.register("OuterloopDrawn-v0", entry_point=Drawn)
    yield "OuterloopDrawn-v0"
    del gymnasium.registry["OuterloopDrawn-v0"]


def test_an_environment_of_ones_own_shows_each_step(drawn):
    watched = WatchedControl(drawn)
    assert watched.frames_per_s == 25
    watched.reset(0)
    for step in range(1, 8):
        transition = watched.step(np.array([1]))
        assert watched.frame()[:, 0, 0].tolist() == [255] * step + [0] * (12 - step)
    assert transition.terminated[0]
    watched.close()


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), "text"], ids=["grey", "float", "?"]
)
def test_what_is_no_picture_is_refused_at_once(drawn, picture):
    with pytest.raises(BadInputError, match="cannot be drawn: expected an RGB picture"):
        WatchedControl(drawn, picture=picture)


def test_missing_pygame_is_said_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(BadInputError, match=r"CartPole-v1 cannot be drawn: pygame is not") as found:
        WatchedControl("CartPole-v1", length=0.7)
    assert "\n" not in str(found.value)


def test_a_drawn_copy_has_the_physics_of_the_task():
    from pipeline.environments.control import make_drawn

    envs, environment = make_drawn("CartPole-v1", length=0.7, masspole=0.3)
    (cart,) = (one.unwrapped for one in envs.envs)
    assert (cart.length, cart.polemass_length) == (0.7, pytest.approx(0.21))
    assert environment.num_envs == 1
    environment.close()
