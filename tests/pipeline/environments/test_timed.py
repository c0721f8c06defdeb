"""Environments that hang are given up; others are what they are without a limit."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial

import numpy as np
import pytest

from pipeline.environments import (
    AtariEnvironment,
    TimedCall,
    TimedEnvironment,
    TimedThread,
    make_environment,
)
from pipeline.errors import EnvironmentFailedError
from tests.pipeline.environments_for_tests import FAILING, failing_environment

MAKERS = {
    "CartPole": partial(make_environment, "CartPole-v1", 3, length=0.7),
    "Pendulum": partial(make_environment, "Pendulum-v1", 2),
    "pong": partial(AtariEnvironment, "pong", 2),
}
NO_ACTION = np.zeros(1)


class Hanging:
    """An environment that hangs where it is told to, until it is let go."""

    num_envs, observation_shape, observation_dtype, action_space = 1, (3,), np.float32, None

    def __init__(self, hangs_at: str = "") -> None:
        self.hangs_at = hangs_at
        self.let_go = threading.Event()
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.ended_by: BaseException | None = None

    def reset(self, seed):
        return self.hang("reset")

    def step(self, actions):
        return self.hang("step")

    def close(self):
        self.hang("close")

    def hang(self, what):
        """Loop in Python, and catch what an environment may catch."""
        self.asked.append(what)
        self.threads.add(threading.get_ident())
        try:
            while what == self.hangs_at and not self.let_go.is_set():
                with suppress(Exception):
                    pass
        except BaseException as error:
            self.ended_by = error
            raise
        return what


class Asleep(Hanging):
    """Hangs where no Python runs, and so cannot be ended; catches more than it may."""

    def hang(self, what):
        if what == self.hangs_at:
            with suppress(BaseException):
                self.let_go.wait()
        return what


@pytest.fixture
def thread():
    thread = TimedThread(0.05)
    yield thread
    thread.end()
    thread._thread.join(60)
    assert not thread._thread.is_alive()


def play(environment, actions):
    seen = [environment.reset(5)]
    for one in actions:
        step = environment.step(one)
        seen += [step.observations, step.rewards, step.terminated, step.truncated]
    environment.close()
    return seen


@pytest.mark.parametrize("name", MAKERS)
def test_a_limit_changes_no_bit(name):
    plain, timed = MAKERS[name](), TimedEnvironment(MAKERS[name](), name, 60)
    assert timed.action_space == plain.action_space
    draw = np.random.default_rng(0)
    actions = draw.integers(2, size=(40, plain.num_envs))
    if name == "Pendulum":
        actions = draw.normal(size=(40, 2, 1)).astype(np.float32)
    thread = TimedThread(60)
    played = thread.run(partial(play, timed, actions))
    thread.end()
    for one, other in zip(played, play(plain, actions), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("doing", ["reset", "step", "close"])
def test_what_hangs_is_given_up_named_and_left_alone(thread, doing):
    hanging = Hanging(doing)
    environment = TimedEnvironment(hanging, "Wheel-v0", 0.05)
    work = {"reset": partial(environment.reset, 0), "step": partial(environment.step, NO_ACTION)}
    expected = rf"^environment Wheel-v0: {doing} took over 0\.05 s \(environments\.timeout_s\)$"
    with pytest.raises(EnvironmentFailedError, match=expected):
        thread.run(work.get(doing, environment.close))
    assert thread.is_abandoned
    thread._thread.join(60)  # the loop was ended from outside
    assert not thread._thread.is_alive()
    assert hanging.ended_by is not None
    with pytest.raises(EnvironmentFailedError, match="Wheel-v0 was given up before step"):
        environment.step(NO_ACTION)
    environment.close()
    assert hanging.asked == [doing]


def test_what_comes_back_too_late_goes_no_further(thread):
    """Nothing after the call runs beside what is done in the meantime, though it was caught."""
    asleep, went_on = Asleep("step"), []
    environment = TimedEnvironment(asleep, "Wheel-v0", 0.05)

    def work():
        with suppress(Exception):
            environment.step(NO_ACTION)
        went_on.append(True)

    with pytest.raises(EnvironmentFailedError):
        thread.run(work)
    asleep.let_go.set()
    thread._thread.join(60)
    assert not thread._thread.is_alive()
    assert not went_on


def test_only_a_single_call_that_takes_too_long_is_given_up():
    """Not many that take longer together."""
    slow, thread = Hanging(), TimedThread(1)
    slow.step = lambda actions: slow.let_go.wait(0.2)
    environment = TimedEnvironment(slow, "Wheel-v0", 1)
    thread.run(lambda: [environment.step(NO_ACTION) for _ in range(12)])
    assert not thread.is_abandoned
    thread.end()


def test_all_is_done_on_one_thread_and_elsewhere_there_is_no_limit(thread):
    hanging = Hanging()
    environment = TimedEnvironment(hanging, "Wheel-v0", 0)
    thread.run(partial(environment.reset, 0))
    thread.run(partial(environment.step, NO_ACTION))
    assert hanging.threads == {thread._thread.ident}
    environment.close()  # by whoever drops it
    assert hanging.threads == {thread._thread.ident, threading.get_ident()}


def test_whoever_drops_an_environment_that_hangs_waits_no_longer_than_the_limit(caplog):
    hanging = Asleep("close")
    TimedEnvironment(hanging, "Wheel-v0", 0.05).close()
    hanging.let_go.set()
    assert "environment Wheel-v0: close took over 0.05 s" in caplog.text


def test_an_environment_may_hang_while_it_is_made(thread):
    asleep = Asleep("reset")
    making = partial(TimedCall("Wheel-v0", "making it").of, asleep.hang, "reset")
    with pytest.raises(EnvironmentFailedError, match=r"Wheel-v0: making it took over 0\.05 s"):
        thread.run(making)
    asleep.let_go.set()
    assert TimedCall("Wheel-v0", "making it").of(abs, -3) == 3  # no limit elsewhere


def test_errors_are_those_of_the_environment(thread):
    environment = TimedEnvironment(failing_environment(), FAILING, 0.05)
    thread.run(partial(environment.reset, 0))
    with pytest.raises(ValueError, match="actions are"):
        thread.run(partial(environment.step, np.zeros(7, np.int64)))
    step = partial(environment.step, np.zeros(3, np.int64))
    for _ in range(6):
        thread.run(step)
    with pytest.raises(EnvironmentFailedError, match="the wheel came off"):
        thread.run(step)
    assert not thread.is_abandoned
