"""This process's claim on a run that is copied: kept up by beats, looked at before points are sent.

Two machines that both put points into a run's curves would leave some there twice. So nothing is
sent to MLflow but while the storage says, or said lately, that the run is still this process's.
"""

from __future__ import annotations

import math
import time

from pipeline.copy_lineage import ElsewhereError
from pipeline.copy_owner import BEAT_EVERY_S, FRESH_S, Owner, read_owner, write_owner
from pipeline.errors import UnconfirmedError
from pipeline.storage import Storage

LOOK_EVERY_S = 1.0  # at most, before points are sent


class Claim:
    """The claim of `owner`, this process; beats come from one thread, questions from any."""

    def __init__(self, storage: Storage, owner: Owner) -> None:
        self._storage = storage
        self._owner = owner
        self._beaten = -math.inf
        self._confirmed = -math.inf
        self._next_look = -math.inf

    def beat(self, forced: bool = False) -> None:
        """Let others know, now and then, that this process is at work; the first beat claims.

        Raises:
            ElsewhereError: Someone else has taken the run.
        """
        now = time.monotonic()
        if not forced and now < self._beaten + BEAT_EVERY_S:
            return
        if math.isfinite(self._beaten):
            self._look()
        write_owner(self._storage, self._owner)
        self._confirmed, self._beaten = now, time.monotonic()

    def end(self) -> None:
        """Let others know that this process has ended its work."""
        self.beat(forced=True)
        write_owner(self._storage, self._owner, is_over=True)

    def confirm(self) -> None:
        """Return if the run is this process's, as the storage says or said lately.

        Raises:
            ElsewhereError: Someone else has taken it.
            UnconfirmedError: For so long that others may, the storage has not answered.
        """
        now = time.monotonic()
        if now >= self._next_look:
            try:
                self._look()
                self._confirmed, self._next_look = now, now + LOOK_EVERY_S
            except ElsewhereError:
                raise
            except Exception:  # all that a file system and its network can raise, after a while
                self._next_look = time.monotonic() + BEAT_EVERY_S
        if time.monotonic() > self._confirmed + FRESH_S:
            raise UnconfirmedError(f"has not answered for {FRESH_S:.0f} s")

    def _look(self) -> None:
        other = read_owner(self._storage)
        if other is not None and other.writer != self._owner.writer:
            raise ElsewhereError(f"was taken over by process {other.pid} on {other.host}")
