"""SIGINT and SIGTERM: a request to stop at the next safe point, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import InterruptedRunError


class StopRequest:
    """Remembers that someone asked the run to stop."""

    def __init__(self) -> None:
        self.signal_name = ""

    def check(self) -> None:
        """Raise InterruptedRunError if a stop was asked for."""
        if self.signal_name:
            raise InterruptedRunError(f"interrupted by {self.signal_name}")

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take SIGINT and SIGTERM as requests while the block runs; a second SIGINT is at once.

        Only a process's main thread may do this; elsewhere signals stay as they are.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.listen_again()
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen_again(self) -> None:
        """Put the handlers in place again: Ray, as it starts, puts its own there, which abort."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
