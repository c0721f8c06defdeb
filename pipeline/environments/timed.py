"""A time limit on environments: one that hangs ends its task, not the run.

What is handed to another thread is not a step but a large part of a task, in which an environment
is stepped many times. Handing over each step would cost two changes of threads a step: 7 to 10 % of
A2C on 16 CartPoles, and far more where processes wait for a core.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock, Thread, local
from typing import Any, TypeVar

from numpy.typing import NDArray

from pipeline.environments.vector import Observations, Transition, VectorEnvironment
from pipeline.errors import EnvironmentFailedError

logger = logging.getLogger(__name__)

T = TypeVar("T")
_here = local()  # `thread`: the TimedThread that this thread is


class TimedEnvironment:
    """A `VectorEnvironment` whose calls are given up, on a TimedThread, if they take too long.

    On any other thread it is the environment itself, but that `close` is waited for no longer
    either. One that was given up is left alone: every later call fails at once, and it is never
    closed, as the call that hung may still be inside.
    """

    def __init__(self, environment: VectorEnvironment, name: str, timeout_s: float) -> None:
        """Take the environment, called `name` in messages; a `timeout_s` of 0 is no limit."""
        self.name = name
        self.num_envs = environment.num_envs
        self.observation_shape = environment.observation_shape
        self.observation_dtype = environment.observation_dtype
        self.action_space = environment.action_space
        self._environment = environment
        self._timeout_s = timeout_s
        self._last: TimedCall | None = None

    @property
    def is_given_up(self) -> bool:
        """Whether a call took too long."""
        return self._last is not None and self._last.is_given_up

    def reset(self, seed: int) -> Observations:
        """Begin a new episode everywhere; EnvironmentFailedError once it was given up."""
        return self._call("reset", self._environment.reset, seed)

    def step(self, actions: NDArray[Any]) -> Transition:
        """Act once everywhere; EnvironmentFailedError once it was given up."""
        return self._call("step", self._environment.step, actions)

    def close(self) -> None:
        """Free what the environments hold, unless they were given up."""
        if self.is_given_up:
            return
        if timed_thread() is not None or not self._timeout_s:
            self._call("close", self._environment.close)
            return
        closing = Thread(target=self._environment.close, name=f"close {self.name}", daemon=True)
        closing.start()
        closing.join(self._timeout_s)
        if closing.is_alive():
            logger.warning("environment %s: %s", self.name, _too_long("close", self._timeout_s))

    def _call(self, doing: str, function: Callable[..., T], *arguments: Any) -> T:
        if self.is_given_up:
            raise EnvironmentFailedError(f"environment {self.name} was given up before {doing}")
        self._last = call = TimedCall(self.name, doing)
        return call.of(function, *arguments)


class TimedThread:
    """Does one thing after the other on a thread of its own, where no TimedCall can hang.

    At all times:
      - everything is done on the same thread, one thing at a time;
      - once a TimedCall took over `timeout_s` the thread is abandoned: nothing is
        asked of it any more, and it goes no further than out of that call. Until then it holds
        what it was given.

    Code that keeps Python's lock for ever cannot be waited for: only what runs Python, or gives
    the lock back, can be given up.
    """

    def __init__(self, timeout_s: float) -> None:
        """Start the thread; `timeout_s` is above 0."""
        self.is_abandoned = False
        self.call: TimedCall | None = None  # under way
        self._timeout_s = timeout_s
        self._question: Callable[[], Any] | None = None
        self._answer: Any = None
        self._error: BaseException | None = None
        # Each is taken here, and released on the other side.
        self._asked, self._answered = Lock(), Lock()
        self._asked.acquire()
        self._answered.acquire()
        self._thread = Thread(target=self._serve, name="timed environments", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], T]) -> T:
        """Return what `function` does on the thread; raise what it raises.

        Raises:
            EnvironmentFailedError: A TimedCall took too long; the message names its environment,
                and the key of the limit.
        """
        self._question = function
        self._asked.release()
        is_done = False
        try:
            hung = self._wait()
            is_done = hung is None
        finally:
            if not is_done:  # or a signal's handler raised here
                self._abandon()
        if hung is not None:
            hung.is_given_up = True
            raise EnvironmentFailedError(
                f"environment {hung.name}: {_too_long(hung.doing, self._timeout_s)}"
            )
        answer, self._answer = self._answer, None
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # or its traceback would keep this frame, and this frame it
        return answer  # type: ignore[no-any-return]  # of `function`

    def end(self) -> None:
        """End the thread, which has nothing to do; do nothing if it was abandoned."""
        if not self.is_abandoned:
            self._question = None
            self._asked.release()

    def _wait(self) -> TimedCall | None:
        """Wait for the answer; return the call that hangs, if one does."""
        left = self._timeout_s
        while not self._answered.acquire(timeout=left):
            call, left = self.call, self._timeout_s
            if call is not None:  # one that began since has the rest of its time
                left += call.began - time.monotonic()
                if left <= 0:
                    return call
        return None

    def _serve(self) -> None:
        _here.thread = self
        with suppress(_GivenUpError):
            while not self.is_abandoned:
                self._asked.acquire()
                if self._question is None:
                    return
                function, self._question = self._question, None
                try:
                    self._answer = function()
                except BaseException as error:  # the asker's to judge, whatever it is
                    self._error = error
                del function  # nothing is kept alive by waiting
                self._answered.release()

    def _abandon(self) -> None:
        self.is_abandoned = True
        # Ends a loop in Python; what sleeps or computes elsewhere hears of it on its return.
        ident, raised = ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(_GivenUpError)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, raised)


@dataclass(slots=True)
class TimedCall:
    """A call of an environment's code, given up on a TimedThread if it takes too long."""

    name: str  # of the environment
    doing: str
    is_given_up: bool = False
    began: float = 0.0

    def of(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what `function` returns."""
        thread = timed_thread()
        if thread is None:
            return function(*arguments)
        self.began = time.monotonic()
        thread.call = self
        try:
            return function(*arguments)
        finally:
            thread.call = None
            if thread.is_abandoned:
                raise _GivenUpError


def timed_thread() -> TimedThread | None:
    """Return the TimedThread that this thread is; None on any other."""
    thread: TimedThread | None = getattr(_here, "thread", None)
    return thread


def _too_long(doing: str, timeout_s: float) -> str:
    return f"{doing} took over {timeout_s:g} s (environments.timeout_s)"


class _GivenUpError(BaseException):
    """Raised on an abandoned thread; no Exception, which an environment may catch and go on."""
