"""Draws the progress of a long command: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from pipeline.progress import OuterProgress, Progress, SilentProgress

LINE_EVERY_S = 5.0


@contextlib.contextmanager
def shown(console: Console, silent: bool = False) -> Iterator[Progress]:
    """Give the Progress that suits `console`; `silent` leaves only messages."""
    if silent:
        yield MessagesOnly(console)
    elif not console.is_terminal:
        yield PlainLines(console)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn())
        with Bars(*columns, TextColumn("{task.fields[figures]}"), console=console) as bars:
            yield LiveBars(bars)


def eta(seconds: float | None) -> str:
    """Return a time to go as m:ss or h:mm:ss."""
    if seconds is None:
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def figures(progress: OuterProgress) -> str:
    """Return what an outer step's line says: losses, outer gradient, speed, tasks, time to go."""
    line = (
        f"loss {progress.loss_first:.3f} → {progress.loss_last:.3f}  "
        f"outer grad {progress.grad_norm:.3g}  {progress.inner_steps_per_s:.0f} inner steps/s  "
        f"{progress.tasks_in_flight} tasks in flight  ETA {eta(progress.eta_s)}"
    )
    faults = (("retries", progress.retries), ("dropped", progress.dropped))
    return line + "".join(f"  {count} {name}" for name, count in faults if count)


class MessagesOnly(SilentProgress):
    """Shows messages and nothing else."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def message(self, text: str) -> None:
        """Print it."""
        self._console.print(escape(text), soft_wrap=True, highlight=False)


class PlainLines(MessagesOnly):
    """Prints a line every few seconds, and one at the end of each part."""

    def __init__(self, console: Console, every_s: float = LINE_EVERY_S) -> None:
        super().__init__(console)
        self._every_s = every_s
        self._next_line = 0.0
        self._name, self._done, self._total = "", 0, 0

    def outer_step(self, progress: OuterProgress) -> None:
        """Print the step if the last line is long enough ago or it is the last one."""
        if self._is_due(progress.step == progress.num_steps):
            self.message(f"step {progress.step}/{progress.num_steps}  {figures(progress)}")

    def phase(self, name: str, total: int) -> None:
        """Begin a part."""
        self._name, self._done, self._total = name, 0, total
        self._next_line = time.monotonic() + self._every_s

    def advance(self, amount: int = 1) -> None:
        """Print how far the part is if it is time."""
        self._done += amount
        if self._is_due(self._done == self._total):
            self.message(f"{self._name} {self._done}/{self._total}")

    def _is_due(self, last: bool) -> bool:
        now = time.monotonic()
        if not last and now < self._next_line:
            return False
        self._next_line = now + self._every_s
        return True


class LiveBars:
    """Draws one bar for meta-training and one for the part that is under way."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._training: TaskID | None = None
        self._phase: TaskID | None = None

    def outer_step(self, progress: OuterProgress) -> None:
        """Move the bar and replace its figures."""
        if self._training is None:
            self._training = self._bars.add_task(
                "meta-training", total=progress.num_steps, figures=""
            )
        self._bars.update(self._training, completed=progress.step, figures=figures(progress))

    def phase(self, name: str, total: int) -> None:
        """Begin a bar of its own, in place of the last phase's."""
        if self._phase is not None:
            self._bars.remove_task(self._phase)
        self._phase = self._bars.add_task(escape(name), total=total, figures="")

    def advance(self, amount: int = 1) -> None:
        """Move the bar."""
        if self._phase is not None:
            self._bars.advance(self._phase, amount)

    def message(self, text: str) -> None:
        """Print it above the bars."""
        self._bars.console.print(escape(text), soft_wrap=True, highlight=False)
