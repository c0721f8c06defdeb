"""Tables of a meta-test in environments: env steps to a target return, and game by game."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from jobs.tables import RETURN_COLUMNS, Column, methods_table, rows_table
from pipeline.task_figures import TaskFigure, task_figures

if TYPE_CHECKING:
    from pipeline.evaluation import Evaluation

SHOWN_BY_GAME = tuple(column for column in RETURN_COLUMNS if column.metric != "auc")
TARGET_COLUMNS = (
    Column("env_steps_to_target", "env steps to it ↓", 1, 0, more=False, absent="no episode ended"),
    Column("reached", "reached, % ↑", 100, 1, more=True),
)


def target_table(evaluation: Evaluation) -> Table | None:
    """Return a row per method: env steps to the target return, and the share that reached it.

    The best is marked if one of them did, and all could be judged. None for a meta-test without a
    target.
    """
    if evaluation.target_return is None:
        return None
    from algorithms.scoring import LATEST_ENDS  # and with it torch: not before it is needed

    title = f"Reaching a return of {evaluation.target_return:g}"
    caption = (
        f"First end of an inner step where the mean of the latest {LATEST_ENDS}\n"
        "returns (or as many as there are) is that high; an episode's return\n"
        "is known when it ends. Adaptations that did not get there count\n"
        "with all their env steps: where there are any, the mean is a least."
    )
    reached = [metrics.get("reached") for metrics in evaluation.summary().values()]
    if None in reached:
        caption += "\nWhere no episode ended nobody knows: adapt for more inner steps."
    marks_best = all(reached) and any(one["mean"] > 0 for one in reached if one)
    return methods_table(evaluation, title, TARGET_COLUMNS, caption, marks_best)


def games_table(evaluation: Evaluation) -> RenderableType | None:
    """Return a row per game and method: mean ± standard deviation; None but for games.

    Returns of different games are no common scale, so that their mean says little.
    """
    if evaluation.protocol.get("task.kind") != "atari":
        return None
    found: dict[tuple[str, str], dict[str, TaskFigure]] = {}
    for figure in task_figures(evaluation):
        found.setdefault((figure.task, figure.method), {})[figure.metric] = figure
    columns = [
        column
        for column in (*SHOWN_BY_GAME, *TARGET_COLUMNS)
        if any(column.metric in figures for figures in found.values())
    ]
    rows = [
        (
            *place,
            *(_with_spread(figures.get(column.metric), column) for column in columns),
            str(figures["return"].adaptations),
        )
        for place, figures in found.items()
    ]
    title = "By game: mean ± standard deviation over adaptations"
    names = [column.title.rstrip(" ↑↓") for column in columns]
    return rows_table(title, ["game", "method", *names, "n"], rows)


def _with_spread(figure: TaskFigure | None, column: Column) -> str:
    """Return mean ± sd; a dash, say, where the figure is not there, as for an unpublished score."""
    if figure is None:
        return column.absent
    if not math.isfinite(figure.mean):
        return "-"
    mean = f"{column.factor * figure.mean:,.{column.digits}f}"
    sd = column.factor * figure.sd
    return f"{mean} ± {sd:,.{column.digits}f}" if math.isfinite(sd) else mean
