"""Tables on the terminal, made for 80 columns: a number or a path is never cut by an edge."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.protocol_words import environment_conditions, episode_conditions, tested_on
from pipeline.task_kinds import ENVIRONMENT_KINDS

if TYPE_CHECKING:  # the evaluation imports torch, which a table can do without
    from pipeline.comparison import Comparison, Training
    from pipeline.evaluation import Evaluation, Summary


@dataclass(frozen=True, slots=True)
class Column:
    """How a table shows a metric."""

    metric: str
    title: str
    factor: int
    digits: int
    more: bool  # whether more is better
    absent: str = "-"  # where a method does not have it


COLUMNS = (
    Column("auc", "AUC, % ↓", 100, 1, more=False),
    Column("accuracy", "accuracy, % ↑", 100, 1, more=True),
    Column("loss", "loss ↓", 1, 3, more=False),
)
RETURN_COLUMNS = (
    Column("auc", "AUC ↑", 1, 1, more=True),
    Column("return", "return ↑", 1, 1, more=True),
    Column("human_normalized", "human-norm., % ↑", 100, 1, more=True),
)
FIGURE = re.compile(r"-|-?\d[\d,.]*")
CAPTION_WIDTH = 60
INDENT, BETWEEN = 2, " · "  # of cells that are listed
COLUMN_FRAME = 3  # an edge and a space on both sides of the text


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return a row per method: mean ± 95 % interval of each metric; the best is marked with *.

    A metric that no method has, such as the AUC where there are no curves, has no column.
    """
    protocol, summary = evaluation.protocol, evaluation.summary()
    title = f"Meta-test: {tested_on(protocol)}"
    of_returns = protocol.get("task.kind") in ENVIRONMENT_KINDS
    columns = [
        column
        for column in (RETURN_COLUMNS if of_returns else COLUMNS)
        if any(column.metric in m for m in summary.values())
    ]
    return methods_table(evaluation, title, columns, _caption(evaluation, columns))


def methods_table(
    evaluation: Evaluation,
    title: str,
    columns: Sequence[Column],
    caption: str,
    marks_best: bool = True,
) -> Table:
    """Return a row per method with its mean ± 95 % interval in `columns`; the best has a *."""
    summary = evaluation.summary()
    table = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left",
        min_width=max(map(len, caption.splitlines())),
    )  # fmt: skip
    table.add_column("method", overflow="fold", ratio=1)
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    several_seeds = len({curve.seed for curve in evaluation.curves}) > 1
    table.add_column("pairs" if several_seeds else "tasks", justify="right", no_wrap=True)
    best = {
        column.metric: _best(summary, column.metric, column.more) if marks_best else None
        for column in columns
    }
    for method, metrics in summary.items():
        cells = [
            _figure(metrics.get(column.metric), column, best[column.metric]) for column in columns
        ]
        counted = {(c.task, c.seed) for c in evaluation.curves if c.method == method}
        table.add_row(Text(method), *cells, str(len(counted)))
    return table


def training_table(comparison: Comparison) -> RenderableType:
    """Return a row per method: how long, and on how many tasks, each of its runs was trained."""
    of_episodes = any(one.num_episodes is not None for one in comparison.training.values())
    columns = ["outer steps", "inner steps", "training tasks"]
    if of_episodes:
        columns = ["outer steps", "episodes", "augmented", "transductive"]
    rows = [
        (method, *_trained(one, of_episodes), ", ".join(map(str, sorted(one.seeds))))
        for method, one in comparison.training.items()
    ]
    return rows_table("Meta-training, for each seed", ["method", *columns, "seeds"], rows)


def _trained(one: Training, of_episodes: bool) -> list[str]:
    counts = [one.outer_steps, one.num_episodes]
    if not of_episodes:
        counts = [one.outer_steps, one.inner_steps, one.num_tasks]
    cells = ["-" if count is None else f"{count:,}" for count in counts]
    answers = {None: "-", True: "yes", False: "no"}
    return cells + ([answers[one.augmented], answers[one.transductive]] if of_episodes else [])


def rows_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> RenderableType:
    """Return rows of text: a table where no word of it has to be broken, else a list of cells."""
    return _Rows(title, tuple(columns), tuple(tuple(row) for row in rows))


@dataclass(frozen=True, slots=True)
class _Rows:
    """What `rows_table` returns: its form depends on the terminal's width."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = list(zip(self.columns, *self.rows, strict=True))
        room = options.max_width - COLUMN_FRAME * len(cells) - 1
        widths = column_widths(cells, room)
        yield (
            self._table(widths) if sum(widths) <= room else Group(*self._listed(options.max_width))
        )

    def _table(self, widths: Sequence[int]) -> Table:
        table = Table(title=Text(self.title, style="table.title"), title_justify="left")
        for place, (column, width) in enumerate(zip(self.columns, widths, strict=True)):
            is_figures = all(FIGURE.fullmatch(row[place]) for row in self.rows)
            table.add_column(column, width=width, justify="right" if is_figures else "left")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def _listed(self, width: int) -> Iterator[RenderableType]:
        yield Text(self.title, style="italic", overflow="fold")
        for first, *others in self.rows:
            yield Text(first, style="bold", overflow="fold")
            named = zip(self.columns[1:], others, strict=True)
            cells = [f"{column}: {cell}" if column else cell for column, cell in named if cell]
            for line in packed(cells, width - INDENT):
                yield Padding(Text(line, overflow="fold"), (0, 0, 0, INDENT), expand=False)


def packed(cells: Iterable[str], width: int) -> list[str]:
    """Return the cells in order on as few lines of `width` as they fit; a longer cell is a line."""
    lines: list[str] = []
    for cell in cells:
        if lines and len(lines[-1]) + len(BETWEEN) + len(cell) <= width:
            lines[-1] += BETWEEN + cell
        else:
            lines.append(cell)
    return lines


def column_widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return the width of each column of cells, of `room` characters in sum where that can be.

    No column is narrower than its longest word, which may take more than the room, nor wider
    than its longest cell; what is left goes to the columns that lack most.
    """
    natural = [max(map(len, cells)) for cells in columns]
    widths = [
        max(len(word) for cell in cells for word in cell.split() or [""]) for cells in columns
    ]
    for _ in range(room - sum(widths)):
        lacking = [most - width for most, width in zip(natural, widths, strict=True)]
        if max(lacking) > 0:
            widths[lacking.index(max(lacking))] += 1
    return widths


def _figure(values: dict[str, Any] | None, column: Column, best: float | None) -> Text:
    if values is None or not math.isfinite(values["mean"]):
        return Text(column.absent if values is None else "diverged")
    factor, digits = column.factor, column.digits
    text = f"{factor * values['mean']:,.{digits}f}"
    if math.isfinite(values["ci95"]):  # a single task has no interval
        text += f" ± {factor * values['ci95']:,.{digits}f}"
    is_best = values["mean"] == best
    return Text(text + (" *" if is_best else "  "), style="bold" if is_best else "")


def _best(summary: Summary, metric: str, more: bool) -> float | None:
    """Return the best mean, where there are several methods to choose from."""
    means = [metrics[metric]["mean"] for metrics in summary.values() if metric in metrics]
    finite = [mean for mean in means if math.isfinite(mean)]
    return (max if more else min)(finite) if len(finite) > 1 else None


def _conditions(evaluation: Evaluation) -> str:
    """Return what else a figure depends on, on episodes and in environments."""
    words = environment_conditions(evaluation.protocol)
    words += episode_conditions(evaluation.protocol, evaluation.learner)
    if not words:
        return ""
    if evaluation.outer_step >= 0:
        words.append(f"parameters of outer step {evaluation.outer_step:,}")
    return "\n".join(packed(words, CAPTION_WIDTH)) + ".\n"


def _caption(evaluation: Evaluation, columns: Sequence[Column]) -> str:
    area = ""
    if COLUMNS[0] in columns:
        area = "AUC: area under the error curve, its mean over the steps.\n"
    if RETURN_COLUMNS[0] in columns:
        area = "AUC: area under the return curve, its mean over env steps.\n"
    if len({curve.seed for curve in evaluation.curves}) == 1:
        interval = "±: 95 % interval over tasks."
    else:
        interval = (
            "±: 95 % interval over (task, seed) pairs as if independent,\n"
            "though a task under two seeds is still the same task."
        )
    of_returns = any(column in RETURN_COLUMNS for column in columns)
    arrow = "↑: higher" if of_returns else "↓: lower"
    return f"{_conditions(evaluation)}{area}{interval}\n{arrow} is better. *: the best."
