"""A time limit on environments: one that hangs ends its task, not the run."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, TypeVar

from numpy.typing import NDArray

from pipeline.environments.vector import Observations, Transition, VectorEnvironment
from pipeline.errors import EnvironmentFailedError

T = TypeVar("T")
logger = logging.getLogger(__name__)


class TimedEnvironment:
    """A `VectorEnvironment` on a thread of its own, waited for `timeout_s` at most.

    At all times:
      - everything that the environment is asked, making and closing it included, is asked on the
        same thread, one thing at a time;
      - an environment that was not done in time is abandoned: every later call fails at once, and
        it is never closed, as its thread may still be inside of it.

    Results are bitwise those of the environment itself. Code that keeps Python's lock for ever
    cannot be waited for: only what runs Python, or gives the lock back, can be given up.
    """

    def __init__(self, make: Callable[[], VectorEnvironment], name: str, timeout_s: float) -> None:
        """Make the environment, called `name` in messages; raises what `make` raises.

        Making it has no limit: where that hangs, a run cannot begin.
        """
        self._name = name
        self._timeout_s = timeout_s
        self._is_abandoned = False
        self._question: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
        self._answer: Any = None
        self._error: BaseException | None = None
        # Bare locks, each taken here and released on the other side: a queue or a future costs
        # several times as much for every step.
        self._asked, self._answered = Lock(), Lock()
        self._asked.acquire()
        self._answered.acquire()
        self._thread = Thread(target=self._serve, name=f"environment {name}", daemon=True)
        self._thread.start()
        try:
            self._environment = self._ask("making", make, limited=False)
        except BaseException:
            self._end_thread()
            raise
        self.num_envs = self._environment.num_envs
        self.observation_shape = self._environment.observation_shape
        self.observation_dtype = self._environment.observation_dtype
        self.action_space = self._environment.action_space

    def reset(self, seed: int) -> Observations:
        """Begin a new episode everywhere; EnvironmentFailedError if that takes too long."""
        return self._ask("reset", self._environment.reset, seed)

    def step(self, actions: NDArray[Any]) -> Transition:
        """Act once everywhere; EnvironmentFailedError if that takes too long."""
        return self._ask("step", self._environment.step, actions)

    def close(self) -> None:
        """Free what the environments hold, unless they were abandoned; never waits for ever."""
        if self._is_abandoned:
            return
        try:
            self._ask("close", self._environment.close)
        except EnvironmentFailedError as error:  # the task has what it wanted
            logger.warning("%s", error)
        self._end_thread()

    def _ask(
        self, doing: str, function: Callable[..., T], *arguments: Any, limited: bool = True
    ) -> T:
        """Return what `function` does on the environment's thread; raise what it raises."""
        if self._is_abandoned:
            raise EnvironmentFailedError(f"environment {self._name} was given up before {doing}")
        self._question = (function, arguments)
        self._asked.release()
        is_done = False
        try:
            is_done = self._answered.acquire(timeout=self._timeout_s if limited else -1)
        finally:
            if not is_done:  # too late, or a signal's handler raised here
                self._abandon()
        if not is_done:
            raise EnvironmentFailedError(
                f"environment {self._name}: {doing} took over {self._timeout_s:g} s "
                "(environments.timeout_s)"
            )
        answer, self._answer = self._answer, None
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # or its traceback would keep this frame, and this frame it
        return answer  # type: ignore[no-any-return]  # of `function`

    def _serve(self) -> None:
        with suppress(_GivenUpError):
            while not self._is_abandoned:
                self._asked.acquire()
                if self._question is None:
                    return
                (function, arguments), self._question = self._question, None
                try:
                    self._answer = function(*arguments)
                except BaseException as error:  # the caller's to judge, whatever it is
                    self._error = error
                del function, arguments  # nothing is kept alive by waiting
                self._answered.release()

    def _abandon(self) -> None:
        self._is_abandoned = True
        # Ends a loop in Python; what sleeps or computes elsewhere hears of it on its return.
        ident, raised = ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(_GivenUpError)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, raised)

    def _end_thread(self) -> None:
        if not self._is_abandoned:
            self._is_abandoned = True
            self._question = None
            self._asked.release()


class _GivenUpError(BaseException):
    """Raised inside an abandoned environment; no Exception, which it may catch and go on."""
