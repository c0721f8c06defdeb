"""Tables on the terminal, of at most 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # the evaluation imports torch, which a table can do without
    from pipeline.evaluation import Evaluation, Summary

# Metric, column title, factor for display, and whether more is better.
COLUMNS = (
    ("auc", "AUC, %", 100, False),
    ("accuracy", "accuracy, %", 100, True),
    ("loss", "loss", 1, False),
)


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return a row per method: mean ± 95 % interval of each metric; the best is marked with *."""
    protocol, summary = evaluation.protocol, evaluation.summary()
    title = f"Meta-test: {protocol['data.name']}, {protocol['evaluation.num_steps']} inner steps"
    caption = _caption(evaluation)
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("method", overflow="fold", ratio=1)
    for _, column, _, _ in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("tasks", justify="right", no_wrap=True)
    best = {metric: _best(summary, metric, more) for metric, _, _, more in COLUMNS}
    for method, metrics in summary.items():
        cells = [
            _figure(metrics.get(metric), factor, best[metric]) for metric, _, factor, _ in COLUMNS
        ]
        table.add_row(method, *cells, _tasks(metrics["auc"]))
    return table


def rows_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a plain table of text that folds what does not fit."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _figure(values: dict[str, Any] | None, factor: float, best: float | None) -> Text:
    if values is None or not math.isfinite(values["mean"]):
        return Text("-" if values is None else "diverged")
    digits = 1 if factor == 100 else 3
    text = f"{factor * values['mean']:.{digits}f}"
    if math.isfinite(values["ci95"]):  # a single task has no interval
        text += f" ± {factor * values['ci95']:.{digits}f}"
    is_best = values["mean"] == best
    return Text(text + (" *" if is_best else "  "), style="bold" if is_best else "")


def _best(summary: Summary, metric: str, more: bool) -> float | None:
    """Return the best mean, where there are several methods to choose from."""
    means = [metrics[metric]["mean"] for metrics in summary.values() if metric in metrics]
    finite = [mean for mean in means if math.isfinite(mean)]
    return (max if more else min)(finite) if len(finite) > 1 else None


def _tasks(values: dict[str, Any]) -> str:
    seeds = values["seeds"]
    return str(values["tasks"]) + (f" ({seeds} seeds)" if seeds > 1 else "")


def _caption(evaluation: Evaluation) -> str:
    seeds = {curve.seed for curve in evaluation.curves}
    if len(seeds) == 1:
        interval = "±: 95 % interval over tasks."
    else:
        interval = (
            "±: 95 % interval over (task, seed) pairs as if independent,\n"
            "though a task under two seeds is still the same task."
        )
    return f"AUC: mean training error over the steps.\n{interval} *: the best."
