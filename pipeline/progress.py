"""What a long command tells whoever watches it; drawing it is the watcher's affair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OuterProgress:
    """How meta-training stands after an outer step."""

    step: int  # outer steps taken
    num_steps: int
    loss_first: float  # mean training loss over the meta-batch at the first inner step
    loss_last: float  # the same at the last inner step
    grad_norm: float  # of the averaged outer gradient
    inner_steps_per_s: float
    tasks_in_flight: int
    eta_s: float | None  # None before there is anything to go by
    retries: int  # in the run so far
    dropped: int  # tasks left out of their update in the run so far


class Progress(Protocol):
    """Receives what happens, in order, from the one thread that runs the command."""

    def outer_step(self, progress: OuterProgress) -> None:
        """Meta-training took an outer step."""

    def phase(self, name: str, total: int) -> None:
        """Something of `total` parts begins, e.g. the meta-test's adaptations; ends the last."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more parts of the phase are done."""

    def message(self, text: str) -> None:
        """Something worth a line: a warning, a checkpoint that was restored."""


class SilentProgress:
    """Shows nothing."""

    def outer_step(self, progress: OuterProgress) -> None:
        """Ignore it."""

    def phase(self, name: str, total: int) -> None:
        """Ignore it."""

    def advance(self, amount: int = 1) -> None:
        """Ignore it."""

    def message(self, text: str) -> None:
        """Ignore it."""
