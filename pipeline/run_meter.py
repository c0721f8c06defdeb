"""Counts a run's work for whoever watches the cluster, or not, where there is none."""

from __future__ import annotations

from typing import Protocol

from pipeline.failure import Kind


class RunMeter(Protocol):
    """Counts a run's work. No method waits for anything."""

    def segment(self, inner_steps: int, env_steps: int) -> None:
        """A segment arrived, of so many steps."""

    def retry(self, kind: Kind) -> None:
        """A task is begun again, after a failure of this kind."""

    def dropped(self, num_tasks: int) -> None:
        """Tasks were left out."""

    def outer_step(self, staleness: int) -> None:
        """An outer step was taken, with a task that began at most so many outer steps before."""


class NoMeter:
    """Counts nothing: a run in one process has no cluster."""

    def segment(self, inner_steps: int, env_steps: int) -> None:
        """Do nothing."""

    def retry(self, kind: Kind) -> None:
        """Do nothing."""

    def dropped(self, num_tasks: int) -> None:
        """Do nothing."""

    def outer_step(self, staleness: int) -> None:
        """Do nothing."""
