"""SIGINT, SIGTERM and SIGHUP: a request to stop at the next safe point, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeline.errors import InterruptedRunError
from pipeline.progress import Progress, SilentProgress


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a command to end.

    SIGHUP, that the terminal was closed, is one unless whoever started the command has it ignored,
    as `nohup` does.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@contextmanager
def ending_as_ctrl_c() -> Iterator[None]:
    """Have each of `stop_signals` do in the block what Ctrl-C does; of a main thread alone."""
    interrupt, *others = stop_signals()

    def press_ctrl_c(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(interrupt)  # asyncio, while it runs, has a handler of its own for it

    with _handled_by(signal.default_int_handler, [interrupt]), _handled_by(press_ctrl_c, others):
        yield


@contextmanager
def _handled_by(handler: Any, numbers: Iterable[signal.Signals]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


class StopRequest:
    """Remembers that someone asked the run to stop.

    Before the run has begun, a signal ends the process at once; so does a second SIGINT later.
    "At once" is an end within the signal handler: an exception raised there may come in the middle
    of anything, a finaliser or Ray's own code, and be lost. What is on disk stands a kill.

    Attributes:
        signal_name: The signal that asked; empty as long as none did.
        progress: Who is told.
        what_follows: What the first signal leads to, for who is told of it.
        how_to_go_on: Says what is kept of the run, and how to go on with it.
        clean_up: Is called where a signal ends the process at once, first.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.signal_name = ""
        self.progress: Progress = progress or SilentProgress()
        self.what_follows = "stopping with a checkpoint"
        self.how_to_go_on: Callable[[], str] = lambda: "before the run began"
        self.clean_up: Callable[[], object] = lambda: None
        self._begun = False

    def check(self) -> None:
        """Raise InterruptedRunError if a stop was asked for."""
        if self.signal_name:
            raise InterruptedRunError(f"interrupted by {self.signal_name}")

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take the signals of `stop_signals` while the block runs.

        Only a process's main thread may do this; elsewhere signals stay as they are.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        with _handled_by(self._receive, stop_signals()):
            yield self

    def begin(self) -> None:
        """From now on a signal is a request, which `check` answers.

        Takes the signals again: Ray, as it starts, puts its own handlers there, which abort.
        """
        self._begun = True
        if threading.current_thread() is threading.main_thread():
            for number in stop_signals():
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._begun and not (self.signal_name and number == signal.SIGINT):
            first, self.signal_name = not self.signal_name, name
            if first:  # said now: the next safe point may be far away
                again = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
                self.progress.at_once(f"{name}: {self.what_follows}{again}")
            return
        self.clean_up()
        twice = "twice " if self.signal_name else ""
        line = f"interrupted {twice}by {name} {self.how_to_go_on()}"
        self.progress.last_words(line, InterruptedRunError.exit_code)
        os._exit(InterruptedRunError.exit_code)
