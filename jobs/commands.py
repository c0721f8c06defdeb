"""The commands that make or read runs: call the pipeline, draw what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs import catalog
from jobs.progress import shown
from jobs.return_tables import games_table, target_table
from jobs.tables import evaluation_table, rows_table, training_table
from pipeline import comparison, session
from pipeline.evaluation import Evaluation
from pipeline.export import export_run
from pipeline.fetch_run import find_run, open_run
from pipeline.model_registry import register_model
from pipeline.plots import check_plot, comparison_name, plot_evaluation
from pipeline.runs import RunFolder, home
from pipeline.task_figures import task_figures

Result = dict[str, Any]


def train(console: Console, experiment: str, overrides: list[str], run_id: str | None) -> Result:
    """Train the experiment from its beginning; the run `run_id`, if there is one, to its end."""
    resolved = catalog.load(experiment, overrides)
    with shown(console) as progress:
        found = None
        if run_id is not None:
            found = find_run(run_id, resolved.checkpoint.copy_to, progress)
        if found is None:
            result = session.train(resolved, progress, run_id or "")
        else:
            result = session.go_on(found, resolved, progress)
    return _training_result(console, result)


def resume(console: Console, run: str, overrides: list[str], take_over: bool = False) -> Result:
    """Go on with the run, or with its copy."""
    with shown(console) as progress:
        folder = open_run(run, progress, take_over=take_over)
        result = session.resume(folder, overrides, progress, take_over)
    return _training_result(console, result)


def evaluate(
    console: Console,
    run: str,
    baselines: tuple[str, ...] | None,
    overrides: list[str],
    take_over: bool = False,
) -> Result:
    """Meta-test the run, or its copy."""
    with shown(console) as progress:
        folder = open_run(run, progress, take_over=take_over)
        evaluation, plot = session.evaluate(folder, baselines, progress, overrides, take_over)
    _show(console, evaluation)
    _look(console, run=folder.path, plot=plot)
    methods = evaluation.summary()
    return {"run_id": folder.run_id, "methods": methods, **_games(evaluation), "plot": plot}


def compare(
    console: Console, runs: list[str], plot: Path | None, target_return: float | None
) -> Result:
    """Compare the runs' meta-tests."""
    with shown(console) as progress:
        folders = list(dict.fromkeys(open_run(run, progress, is_to_go_on=False) for run in runs))
    if plot is not None:
        check_plot(plot)
    path = plot or home() / comparison_name([folder.run_id for folder in folders])
    evaluations = [Evaluation.from_parquet(folder.evaluation) for folder in folders]
    compared = comparison.compare(evaluations, target_return)
    _show(console, compared.evaluation)
    console.print(training_table(compared))
    for method, training in compared.training.items():
        if training.run_ids:
            line = f"{method}: {', '.join(training.run_ids)}"
            console.print(line, soft_wrap=True, markup=False)
    for line in compared.differences():
        console.print(line, markup=False)
    _look(console, plot=plot_evaluation(compared.evaluation, path))
    return {
        "runs": [folder.run_id for folder in folders],
        "methods": compared.evaluation.summary(),
        **_games(compared.evaluation),
        "training": {method: asdict(one) for method, one in compared.training.items()},
        "differences": compared.differences(),
        "plot": path,
    }


def export(console: Console, run: str, folder: Path) -> Result:
    """Write the run's model to `folder`."""
    with shown(console) as progress:
        found = open_run(run, progress, is_to_go_on=False)
    about = export_run(found, folder)
    _look(console, model=folder)
    return {"dir": folder, **about}


def register(console: Console, run: str, name: str) -> Result:
    """Register the run's model under `name`."""
    found = register_model(RunFolder.open(run), name)
    line = f"model {found.name}, version {found.version}: of outer step {found.outer_step}"
    console.print(line, soft_wrap=True, markup=False)
    address = f"models:/{found.name}/{found.version}"
    console.print(f'mlflow.pyfunc.load_model("{address}")', soft_wrap=True, markup=False)
    return {**asdict(found), "address": address}


def figures(console: Console, title: str, values: Result) -> Result:
    """Print the figures of a benchmark."""
    console.print(rows_table(title, ("figure", "value"), _flat(values)))
    return values


def _flat(values: Result, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted key and value of a tree of figures."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, f"{value:.4g}" if isinstance(value, float) else str(value)


def _training_result(console: Console, result: session.TrainResult) -> Result:
    evaluation = result.evaluation
    methods = {} if evaluation is None else evaluation.summary()
    if evaluation is not None:
        _show(console, evaluation)
    _look(console, run=result.run_dir, plot=result.plot)
    console.print("all runs: outerloop ui")
    for note in result.notes:
        console.print(note, soft_wrap=True, markup=False)
    own = evaluation.method if evaluation else ""
    keys = "run_id run_dir mlflow_run_id outer_steps inner_steps wall_s parameters_sha256 plot"
    keys += " tracking_uri ended_by notes"
    return {key: getattr(result, key) for key in keys.split()} | {
        "final": methods.get(own, {}),
        "baselines": {name: values for name, values in methods.items() if name != own},
        **({} if evaluation is None else _games(evaluation)),
    }


def _games(evaluation: Evaluation) -> Result:
    """Return each game's figures, {mean, sd, adaptations}, by game, method and metric."""
    if evaluation.protocol.get("task.kind") != "atari":
        return {}
    found: Result = {}
    for one in task_figures(evaluation):
        row = {"mean": one.mean, "sd": one.sd, "adaptations": one.adaptations}
        found.setdefault(one.task, {}).setdefault(one.method, {})[one.metric] = row
    return {"games": found}


def _show(console: Console, evaluation: Evaluation) -> None:
    console.print(evaluation_table(evaluation))
    for table in (target_table(evaluation), games_table(evaluation)):
        if table is not None:
            console.print(table)


def _look(console: Console, **places: Path | None) -> None:
    for name, path in places.items():
        if path is not None:
            console.print(f"{name}: {path}", soft_wrap=True, markup=False)
