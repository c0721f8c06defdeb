"""Draws the progress of a long command: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from jobs.task_lines import MAX_TASKS, ROOM_FOR_ECHO, TaskLines, few
from pipeline.progress import (
    BatchProgress,
    OuterProgress,
    Progress,
    batch_lines,
    eta,
    figures,
    line_of,
)

LINE_EVERY_S = 5.0
TASKS_EVERY_S = 30.0
ROOM_ABOVE = 4  # lines of the terminal that stay for messages
BAR_WIDTH, MIN_BAR_WIDTH = 16, 4
ROOM_BESIDE_BAR = 44  # for name, count, time to go and what Ctrl-C echoes
SHOW_CURSOR = b"\x1b[?25h"


@contextlib.contextmanager
def shown(console: Console) -> Iterator[Progress]:
    """Give the Progress that suits `console`; one on stderr leaves stdout to JSON."""
    if not console.is_terminal:
        yield PlainLines(console)
    else:
        with live_bars(console) as bars:
            yield LiveBars(bars)


class BarsOverTasks(Bars):
    """Bars, and beneath them a line for each task under way."""

    lines: TaskLines | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield what is drawn, from the top."""
        yield from super().get_renderables()
        if self.lines is not None:
            yield self.lines


def live_bars(console: Console) -> BarsOverTasks:
    """Return bars whose name, bar, count and time to go are always shown; the caption shrinks."""
    bar = max(MIN_BAR_WIDTH, min(BAR_WIDTH, console.width - ROOM_BESIDE_BAR))
    return BarsOverTasks(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar, table_column=Column(width=bar, no_wrap=True)),
        TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True)),
        TextColumn("ETA {task.fields[eta]}", table_column=Column(no_wrap=True)),
        CaptionColumn(),
        TextColumn("", table_column=Column(width=ROOM_FOR_ECHO, no_wrap=True)),
        console=console,
    )


class CaptionColumn(ProgressColumn):
    """The parts of the field `caption`, as many as there is room for."""

    def render(self, task: Task) -> Caption:
        """Return the caption, which learns its width when it is drawn."""
        return Caption(task.fields["caption"])


@dataclass(frozen=True, slots=True)
class Caption:
    """Parts of a line; whole parts are dropped from the right where the line is too short."""

    parts: Sequence[str]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """All parts, or none at all."""
        return Measurement(0, min(cell_len("  ".join(self.parts)), options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the text that fits."""
        parts = list(self.parts)
        while parts and cell_len("  ".join(parts)) > options.max_width:
            parts.pop()
        yield Text("  ".join(parts), no_wrap=True)


class Messages:
    """Prints messages, and the last words of a process that ends in a signal handler."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def message(self, text: str) -> None:
        """Print it (above the bars, where there are some)."""
        self._console.print(escape(text), soft_wrap=True, highlight=False)

    def at_once(self, text: str) -> None:
        """Write it past every buffer and lock, where the next drawing of the bars leaves it."""
        beginning = "\r\x1b[K" if self._console.is_terminal else ""
        with contextlib.suppress(OSError):
            line = f"{beginning}{text}{self._below_bars()}"
            os.write(2 if self._console.stderr else 1, line.encode())

    def _below_bars(self) -> str:
        """Return the ends of line after which what stands below is drawn over."""
        return "\n"

    def last_words(self, line: str, exit_code: int) -> None:
        """Write as `jobs.cli` reports an error, past every buffer and lock."""
        cursor = b"\r\x1b[K" + SHOW_CURSOR if self._console.is_terminal else b""
        with contextlib.suppress(OSError):
            os.write(2, cursor + f"error: {line}\n".encode())
            if self._console.stderr:  # --json
                said = json.dumps({"error": line, "exit_code": exit_code})
                os.write(1, f"{said}\n".encode())


class PlainLines(Messages):
    """Prints a line every few seconds, and one at the end of each part."""

    def __init__(
        self,
        console: Console,
        every_s: float = LINE_EVERY_S,
        tasks_every_s: float = TASKS_EVERY_S,
    ) -> None:
        super().__init__(console)
        self._every_s = every_s
        self._tasks_every_s = tasks_every_s
        self._next_line = self._next_tasks = 0.0
        self._name, self._done, self._total = "", 0, 0

    def outer_step(self, progress: OuterProgress) -> None:
        """Print the step if the last line is long enough ago or it is the last one."""
        if self._is_due(progress.is_last):
            self.message(line_of(progress))

    def tasks(self, batch: BatchProgress) -> None:
        """Print a line for each task under way if the last ones are long enough ago."""
        now = time.monotonic()
        if batch.tasks and now >= self._next_tasks:
            self._next_tasks = now + self._tasks_every_s
            shown, more = few(batch, MAX_TASKS)
            for line in [*batch_lines(shown, now), *more]:
                self.message(line)

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


class LiveBars(Messages):
    """Draws one bar for meta-training and one for the part that is under way."""

    def __init__(self, bars: BarsOverTasks) -> None:
        super().__init__(bars.console)
        self._bars = bars
        self._training: TaskID | None = None
        self._phase: TaskID | None = None

    def outer_step(self, progress: OuterProgress) -> None:
        """Move the bar and replace its figures."""
        if self._training is None:
            self._training = self._add("meta-training", progress.num_steps)
        self._bars.update(
            self._training,
            completed=progress.step,
            eta=eta(progress.eta_s),
            caption=figures(progress),
        )

    def tasks(self, batch: BatchProgress) -> None:
        """Draw a line for each task under way, beneath the bars."""
        room = self._bars.console.height - self._num_bars() - ROOM_ABOVE
        self._bars.lines = TaskLines(batch, room) if batch.tasks else None

    def phase(self, name: str, total: int) -> None:
        """Begin a bar of its own, in place of the last phase's."""
        if self._phase is not None:
            self._bars.remove_task(self._phase)
        self._phase = self._add(escape(name), total)
        self._begun, self._done, self._total = time.monotonic(), 0, total

    def advance(self, amount: int = 1) -> None:
        """Move the bar."""
        if self._phase is not None:
            self._done += amount
            each_s = (time.monotonic() - self._begun) / self._done
            left_s = each_s * (self._total - self._done)
            self._bars.update(self._phase, advance=amount, eta=eta(left_s))

    def _below_bars(self) -> str:
        lines = self._bars.lines
        return "\n" * max(1, self._num_bars() + (0 if lines is None else lines.height))

    def _num_bars(self) -> int:
        return (self._training is not None) + (self._phase is not None)

    def _add(self, name: str, total: int) -> TaskID:
        return self._bars.add_task(name, total=total, eta="?", caption=[])
