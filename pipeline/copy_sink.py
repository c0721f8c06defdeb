"""Where copies of a run go, as the rest of the pipeline knows it: or that there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class CopySink(Protocol):
    """Where copies of a run go. No method waits for the storage."""

    def check(self) -> None:
        """Raise TakenOverError if another machine is known to have taken the run over."""

    def offer(self, outer_steps: int) -> None:
        """Copy the run as it is now, with a new checkpoint."""

    def offer_tasks(self, outer_steps: int) -> None:
        """Copy the run as it is now, unless that was done lately: a task has a new checkpoint."""

    @property
    def behind(self) -> int | None:
        """How many checkpoints are not copied yet; None if none is to be."""


class NoCopies:
    """Makes none."""

    behind = None
    came_from = ""

    def check(self) -> None:
        """Do nothing."""

    def confirm(self) -> None:
        """Do nothing."""

    def offer(self, outer_steps: int) -> None:
        """Do nothing."""

    def offer_tasks(self, outer_steps: int) -> None:
        """Do nothing."""

    def finish(self, timeout_s: float, is_hurried: Callable[[], bool]) -> None:
        """Do nothing."""
