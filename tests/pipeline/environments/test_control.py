from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from pipeline.environments.control import PHYSICS, draw_physics, make_environment
from pipeline.environments.episodes import EpisodeStatistics
from pipeline.environments.vector import BoxActions, DiscreteActions, environment_seeds
from pipeline.errors import BadInputError, EnvironmentFailedError


class Made(gymnasium.Env):
    """An environment of a user's own, of the spaces it is given; raises on its third step."""

    def __init__(self, observed: spaces.Space, acted: spaces.Space) -> None:
        self.observation_space, self.action_space = observed, acted
        self.num_steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.num_steps += 1
        if self.num_steps == 3:
            raise FloatingPointError("the wheel came off")
        return self.observation_space.sample(), float(np.sum(action)), True, True, {}


VECTOR = spaces.Box(-1, 1, (3,), dtype=np.float32)
IMAGE = spaces.Box(0, 255, (10, 12, 3), dtype=np.uint8)


@pytest.fixture
def made() -> Iterator[str]:
    gymnasium.register("Made-v0", entry_point=Made)
    yield "Made-v0"
    del gymnasium.registry["Made-v0"]


def random_actions(environment, draw: np.random.Generator) -> np.ndarray:
    space = environment.action_space
    if isinstance(space, DiscreteActions):
        return draw.integers(space.count, size=environment.num_envs)
    return draw.normal(size=(environment.num_envs, *space.shape)).astype(np.float32)


def play(environment, seed: int, num_steps: int = 50) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    seen = [environment.reset(seed)]
    for _ in range(num_steps):
        step = environment.step(random_actions(environment, draw))
        seen += [step.observations, step.rewards, step.terminated, step.truncated]
    return seen


@pytest.mark.parametrize("id", PHYSICS)
def test_same_seed_and_actions_give_the_same(id):
    first, again, other = (play(make_environment(id, 3), seed) for seed in (4, 4, 5))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == two.dtype
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("id", PHYSICS)
def test_every_parameter_changes_the_motion(id):
    usual = play(make_environment(id, 2), 1)
    for name, parameter in PHYSICS[id].items():
        changed = play(make_environment(id, 2, **{name: parameter.low}), 1)
        np.testing.assert_array_equal(usual[0], changed[0])
        assert any(not np.array_equal(a, b) for a, b in zip(usual, changed, strict=True)), name


@pytest.mark.parametrize("physics", [{}, {"masspole": 0.4, "length": 0.9, "masscart": 0.7}])
def test_cart_poles_move_as_single_ones_of_the_same_physics(physics):
    environment = make_environment("CartPole-v1", 3, **physics)
    singles = [gymnasium.make("CartPole-v1").unwrapped for _ in range(3)]
    observations, draw, ended = environment.reset(0), np.random.default_rng(1), np.zeros(3, bool)
    for single in singles:
        single.reset(seed=0)
        for name, value in physics.items():
            setattr(single, name, value)
        single.total_mass = single.masspole + single.masscart
        single.polemass_length = single.masspole * single.length
    for single, observation in zip(singles, observations, strict=True):
        single.state = observation.astype(np.float64)
    for _ in range(100):
        actions = random_actions(environment, draw)
        step = environment.step(actions)
        for i, single in enumerate(singles):
            if ended[i]:
                single.reset()
                single.state = step.observations[i].astype(np.float64)
                assert not step.rewards[i]
                continue
            observation, reward, terminated, _, _ = single.step(int(actions[i]))
            np.testing.assert_allclose(step.observations[i], observation, atol=1e-4)
            assert (step.rewards[i], step.terminated[i]) == (reward, terminated)
        ended = step.terminated | step.truncated


def test_pendulums_are_truncated_and_begin_again_as_single_ones():
    environment = make_environment("Pendulum-v1", 2, g=7.0)
    seeds = environment_seeds(3, 2)
    singles = [gymnasium.make("Pendulum-v1", g=7.0) for _ in seeds]
    expected = [one.reset(seed=int(seed))[0] for one, seed in zip(singles, seeds, strict=True)]
    np.testing.assert_array_equal(environment.reset(3), expected)
    statistics, draw = EpisodeStatistics(2), np.random.default_rng(0)
    returns, finished = np.zeros(2), []
    for t in range(405):
        actions = random_actions(environment, draw)
        step = environment.step(actions)
        finished.append(statistics.observe(step.rewards, step.terminated, step.truncated))
        for i, single in enumerate(singles):
            if t in (200, 401):  # an episode has 200 steps, and a step more that resets
                observation, reward, truncated = single.reset()[0], 0.0, False
            else:
                observation, reward, _, truncated, _ = single.step(actions[i])
            np.testing.assert_array_equal(step.observations[i], observation)
            assert step.rewards[i] == np.float32(reward)
            assert (step.truncated[i], step.terminated[i]) == (truncated, False)
            returns[i] += reward
        assert statistics.valid.all() == (t not in (200, 401))
        if t == 199:
            np.testing.assert_allclose(finished[t].returns, returns, rtol=1e-6)
            assert finished[t].env_steps.tolist() == [200, 200]


def test_drawn_physics_lie_in_range_and_depend_on_seed_and_name_alone():
    for id, family in PHYSICS.items():
        drawn = draw_physics(id, 3)
        assert drawn.keys() == family.keys()
        assert all(family[name].low <= drawn[name] <= family[name].high for name in drawn)
        make_environment(id, 1, **drawn).close()
    some = draw_physics("CartPole-v1", 3, ["length"])
    assert some == {"length": draw_physics("CartPole-v1", 3)["length"]}
    assert some != draw_physics("CartPole-v1", 4, ["length"])


@pytest.mark.parametrize("observed", [VECTOR, IMAGE])
def test_any_registered_environment_will_do(made, observed):
    environment = make_environment(made, 2, observed=observed, acted=spaces.Discrete(3, start=5))
    observations = environment.reset(0)
    assert environment.action_space == DiscreteActions(3)
    assert observations.shape == (2, *environment.observation_shape)
    assert observations.dtype == environment.observation_dtype
    if observed is IMAGE:
        images = torch.from_numpy(observations)
        assert images.shape == (2, 3, 10, 12)
        assert images.is_contiguous(memory_format=torch.channels_last)
    step = environment.step(np.array([0, 2]))
    assert step.rewards.tolist() == [5, 7]
    assert step.terminated.all()
    assert not step.truncated.any()  # both at once is an end, not a cut


def test_continuous_actions_are_clipped_to_their_bounds(made):
    acted = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 9], np.float32))
    environment = make_environment(made, 1, observed=VECTOR, acted=acted)
    assert environment.action_space == BoxActions((2,), (-1.0, 0.0), (1.0, 9.0))
    environment.reset(0)
    assert environment.step(np.array([[-7.0, 20.0]])).rewards.tolist() == [8]
    for wrong in ([[0.0]], [[np.nan, 0.0]]):
        with pytest.raises(ValueError, match=r"expected finite \[1, 2\]"):
            environment.step(np.array(wrong))


def test_an_environment_that_raises_is_named_with_the_cause(made):
    environment = make_environment(made, 1, observed=VECTOR, acted=spaces.Discrete(2))
    environment.reset(0)
    for _ in range(4):  # every other step is an episode, every other a reset
        environment.step(np.array([0]))
    with pytest.raises(EnvironmentFailedError, match=r"Made-v0: step raised Floating.*wheel"):
        environment.step(np.array([0]))


@pytest.mark.parametrize(
    ("observed", "acted", "said"),
    [
        (spaces.Dict({"a": VECTOR}), spaces.Discrete(2), "observations are a Dict"),
        (spaces.Tuple([VECTOR]), spaces.Discrete(2), "observations are a Tuple"),
        (spaces.Discrete(4), spaces.Discrete(2), "observations are a Discrete"),
        (spaces.Text(4), spaces.Discrete(2), "observations are a Text"),
        (spaces.Box(0, 1, (2, 2)), spaces.Discrete(2), r"observations are a Box \[2, 2\]"),
        (VECTOR, spaces.MultiDiscrete([2, 2]), "actions are a MultiDiscrete"),
        (VECTOR, spaces.Dict({"a": VECTOR}), "actions are a Dict"),
        (VECTOR, spaces.Box(0, 5, (1,), dtype=np.int32), r"actions are a Box \[1\] of int32"),
    ],
)
def test_unsupported_spaces_are_told_in_one_line(made, observed, acted, said):
    with pytest.raises(BadInputError, match=f"Made-v0: {said}") as told:
        make_environment(made, 1, observed=observed, acted=acted)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("id", "num_envs", "physics", "said"),
    [
        ("CartPole-v1", 0, {}, "num_envs is 0"),
        ("CartPoll-v1", 1, {}, "'CartPoll-v1'.*did you mean CartPole-v1"),
        ("CartPole-v1", 1, {"lenght": 1.0}, "no physics 'lenght'.*did you mean 'length'"),
        ("CartPole-v1", 1, {"length": 0.0}, "length is 0.0, expected a number above 0"),
        ("FrozenLake-v1", 1, {"wind": 2}, "FrozenLake-v1 cannot be made: .*wind"),
        ("LunarLander-v3", 1, {}, "LunarLander-v3 cannot be made: .*Box2D"),
    ],
)
def test_what_cannot_be_made_is_told_in_one_line(id, num_envs, physics, said):
    with pytest.raises(BadInputError, match=said) as told:
        make_environment(id, num_envs, **physics)
    assert "\n" not in str(told.value)


def test_a_family_without_physics_is_named():
    with pytest.raises(BadInputError, match="no family of physics for 'Taxi-v3'"):
        draw_physics("Taxi-v3", 0)
