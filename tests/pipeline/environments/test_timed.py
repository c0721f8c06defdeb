"""Environments that hang are given up; others are what they are without a limit."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest

from pipeline.environments import AtariEnvironment, TimedEnvironment, make_environment
from pipeline.errors import BadInputError, EnvironmentFailedError
from tests.pipeline.environments_for_tests import FAILING, failing_environment

MAKERS = {
    "CartPole": partial(make_environment, "CartPole-v1", 3, length=0.7),
    "Pendulum": partial(make_environment, "Pendulum-v1", 2),
    "pong": partial(AtariEnvironment, "pong", 2),
}


class Hanging:
    """An environment that hangs where it is told to, until it is let go."""

    num_envs, observation_shape, observation_dtype, action_space = 1, (3,), np.float32, None

    def __init__(self) -> None:
        self.hangs_at = ""
        self.let_go = threading.Event()
        self.threads: set[str] = set()
        self.ended_by: BaseException | None = None

    def reset(self, seed):
        return self._do("reset")

    def step(self, actions):
        return self._do("step")

    def close(self):
        self._do("close")

    def _do(self, what):
        self.threads.add(threading.current_thread().name)
        try:
            while what == self.hangs_at and not self.let_go.is_set():
                pass
        except BaseException as error:
            self.ended_by = error
            raise
        return what


def play(environment, actions):
    seen = [environment.reset(5)]
    for one in actions:
        step = environment.step(one)
        seen += [step.observations, step.rewards, step.terminated, step.truncated]
    environment.close()
    return seen


@pytest.mark.parametrize("name", MAKERS)
def test_a_limit_changes_no_bit(name):
    plain, timed = MAKERS[name](), TimedEnvironment(MAKERS[name], name, 60)
    assert timed.action_space == plain.action_space
    draw = np.random.default_rng(0)
    actions = draw.integers(2, size=(40, plain.num_envs))
    if name == "Pendulum":
        actions = draw.normal(size=(40, 2, 1)).astype(np.float32)
    for one, other in zip(play(timed, actions), play(plain, actions), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("doing", ["reset", "step"])
def test_what_hangs_is_given_up_named_and_left_alone(doing):
    hanging = Hanging()
    environment = TimedEnvironment(lambda: hanging, "Wheel-v0", 0.05)
    thread = environment._thread
    assert environment.reset(0) == "reset"
    hanging.hangs_at = doing
    expected = rf"^environment Wheel-v0: {doing} took over 0\.05 s \(environments\.timeout_s\)$"
    with pytest.raises(EnvironmentFailedError, match=expected):
        environment.reset(0) if doing == "reset" else environment.step(np.zeros(1))
    thread.join(60)  # the loop was ended from outside
    assert not thread.is_alive()
    assert hanging.ended_by is not None
    with pytest.raises(EnvironmentFailedError, match="Wheel-v0 was given up before step"):
        environment.step(np.zeros(1))
    hanging.threads.clear()
    environment.close()
    assert not hanging.threads  # close never reached it


def test_an_answer_that_comes_too_late_is_no_ones():
    """Where the hang is no Python, as in a sleep, the thread cannot be ended."""
    hanging = Hanging()
    environment = TimedEnvironment(lambda: hanging, "Wheel-v0", 0.05)
    hanging._do = lambda what: hanging.let_go.wait()
    with pytest.raises(EnvironmentFailedError):
        environment.step(np.zeros(1))
    hanging.let_go.set()
    environment._thread.join(60)
    assert not environment._thread.is_alive()
    with pytest.raises(EnvironmentFailedError, match="given up"):
        environment.reset(0)


def test_a_close_that_hangs_is_a_warning(caplog):
    hanging = Hanging()
    environment = TimedEnvironment(lambda: hanging, "Wheel-v0", 0.05)
    hanging.hangs_at = "close"
    environment.close()
    assert "environment Wheel-v0: close took over 0.05 s" in caplog.text


def test_all_is_done_on_one_thread_which_ends_with_the_environment():
    hanging = Hanging()
    made_on = []
    environment = TimedEnvironment(
        lambda: made_on.append(threading.current_thread().name) or hanging, "Wheel-v0", 60
    )
    environment.reset(0)
    environment.step(np.zeros(1))
    environment.close()
    assert hanging.threads == set(made_on) == {"environment Wheel-v0"}
    environment._thread.join(60)
    assert not environment._thread.is_alive()


def test_errors_are_those_of_the_environment():
    environment = TimedEnvironment(failing_environment, FAILING, 60)
    environment.reset(0)
    with pytest.raises(ValueError, match="actions are"):
        environment.step(np.zeros(7, np.int64))
    for _ in range(6):
        environment.step(np.zeros(3, np.int64))
    with pytest.raises(EnvironmentFailedError, match="the wheel came off"):
        environment.step(np.zeros(3, np.int64))
    environment.close()


def test_one_that_cannot_be_made_leaves_no_thread():
    with pytest.raises(BadInputError, match="no environment is registered"):
        TimedEnvironment(partial(make_environment, "Nothing-v0", 1), "Nothing-v0", 60)
    for thread in threading.enumerate():
        if thread.name == "environment Nothing-v0":
            thread.join(60)
            assert not thread.is_alive()
