"""Lines on a terminal, one for each task under way, beneath the bars."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from pipeline.progress import BatchProgress, batch_figures, eta, task_count, task_figures

MAX_TASKS = 8
MIN_NAME = 6  # cells that a name keeps beside the time to go
# What the terminal echoes of Ctrl-C must not wrap the line, or the bar would be drawn anew below.
ROOM_FOR_ECHO = 3


def few(batch: BatchProgress, limit: int) -> tuple[BatchProgress, list[str]]:
    """Return the batch with `limit` tasks at most, and a line that counts the others, if any."""
    left_out = len(batch.tasks) - limit
    if left_out <= 0:
        return batch, []
    return replace(batch, tasks=batch.tasks[:limit]), [f"  … and {left_out} more"]


class TaskLines:
    """A line for the meta-batch and one for each task; drawn anew, it knows how long none came.

    Where a line is too short, figures are dropped from the right; then the name is cut at its
    beginning, as the end tells tasks apart; then the time to go is dropped.

    Args:
        batch: What is drawn.
        room: Lines of the terminal that there are, at most.
    """

    def __init__(self, batch: BatchProgress, room: int) -> None:
        limit = max(1, min(MAX_TASKS, room - 2))  # less the batch's line, and the one that counts
        self._batch, self._more = few(batch, limit)
        self.height = 1 + len(self._batch.tasks) + len(self._more)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        for line in self.texts(options.max_width - ROOM_FOR_ECHO, time.monotonic()):
            yield Text(line, no_wrap=True, overflow="ellipsis")

    def texts(self, width: int, now: float) -> list[str]:
        """Return lines of at most `width` cells, the columns of tasks beneath each other."""
        tasks = self._batch.tasks
        names = [task.name for task in tasks]
        counts = [task_count(task) for task in tasks]
        etas = [f"ETA {eta(task.eta_s)}" for task in tasks]
        widest = [max(map(cell_len, column)) for column in (names, counts, etas)]
        room = max(width - widest[1] - widest[2] - 6, MIN_NAME)
        name_width = max(1, min(widest[0], room, width - widest[1] - 4))
        lines = [_joined(batch_figures(self._batch), width)]
        for task, name, count, to_go in zip(tasks, names, counts, etas, strict=True):
            head = f"  {_cut(name, name_width)}  {count.rjust(widest[1])}"
            parts = [head, to_go.ljust(widest[2]), *task_figures(task, now)]
            lines.append(_joined(parts, width))
        return lines + self._more


def _joined(parts: Sequence[str], width: int) -> str:
    """Return the first part and as many of the others as there is room for."""
    line = parts[0]
    for part in parts[1:]:
        if cell_len(line) + 2 + cell_len(part) > width:
            break
        line = f"{line}  {part}"
    return line.rstrip()


def _cut(name: str, width: int) -> str:
    """Return the name in exactly `width` cells."""
    if cell_len(name) <= width:
        return set_cell_size(name, width)
    start = next(i for i in range(len(name) + 1) if cell_len(name[i:]) < width)
    return set_cell_size(f"…{name[start:]}", width)
