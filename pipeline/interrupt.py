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

        Only a process's main thread may do this; elsewhere signals stay as they are. To be
        entered after Ray has started, which puts handlers of its own in place that abort.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.signal(s, self._receive) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
