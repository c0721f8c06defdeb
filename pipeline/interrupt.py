"""SIGINT and SIGTERM: a request to stop at the next safe point, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import InterruptedRunError
from pipeline.progress import Progress, SilentProgress


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
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.signal_name = ""
        self.progress: Progress = progress or SilentProgress()
        self.what_follows = "stopping with a checkpoint"
        self.how_to_go_on: Callable[[], str] = lambda: "before the run began"
        self._begun = False

    def check(self) -> None:
        """Raise InterruptedRunError if a stop was asked for."""
        if self.signal_name:
            raise InterruptedRunError(f"interrupted by {self.signal_name}")

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take SIGINT and SIGTERM while the block runs.

        Only a process's main thread may do this; elsewhere signals stay as they are.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._take(signal.SIGINT, signal.SIGTERM)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def begin(self) -> None:
        """From now on a signal is a request, which `check` answers.

        Takes the signals again: Ray, as it starts, puts its own handlers there, which abort.
        """
        self._begun = True
        if threading.current_thread() is threading.main_thread():
            self._take(signal.SIGINT, signal.SIGTERM)

    def _take(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._begun and not (self.signal_name and number == signal.SIGINT):
            first, self.signal_name = not self.signal_name, name
            if first:  # said now: the next safe point may be far away
                again = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
                self.progress.at_once(f"{name}: {self.what_follows}{again}")
            return
        twice = "twice " if self.signal_name else ""
        line = f"interrupted {twice}by {name} {self.how_to_go_on()}"
        self.progress.last_words(line, InterruptedRunError.exit_code)
        os._exit(InterruptedRunError.exit_code)
