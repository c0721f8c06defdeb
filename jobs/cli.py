"""The `outerloop` command: one function a subcommand, each returning what --json prints."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from jobs.console import CommandConsole, drop_output, say, take_standard_streams
from jobs.endings import line_and_code, line_and_code_of_exit
from pipeline.caches import replace_unwritable_caches
from pipeline.runs import home

if TYPE_CHECKING:
    from pipeline.run_list import RunRow

# What needs torch, Ray or MLflow is imported in the command that uses it: they take seconds.

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False,
    help="Meta-training on Ray: learn from many tasks how to learn new ones.",
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
data = typer.Typer(help="Data sets: where they are, how to get them.")
jobs = typer.Typer(help="Jobs on a Ray cluster: what became of them, what they say, stopping one.")
bench = typer.Typer(help="Throughput with ratio to a baseline; what failures cost.")
app.add_typer(data, name="data")
app.add_typer(jobs, name="jobs")
app.add_typer(bench, name="bench")

Result = dict[str, Any]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="e.g. meta.steps=50 algorithm.name=reptile"),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Run id, its beginning, a folder, or a copy's address.")
]
RunHere = Annotated[str, typer.Argument(metavar="RUN", help="Run id, its beginning, or a folder.")]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Go on even if the run is at work, or went on, elsewhere."),
]

Address = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Job server, http://head:8265; else RAY_API_SERVER_ADDRESS."),
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="As `outerloop jobs list` names it.")]


MOST = 1_000_000  # of anything that is counted


def _finite(value: float | None) -> float | None:
    """Refuse what passes every bound, and would never end."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"outerloop {metadata.version('outerloop')}")
        raise typer.Exit


@app.callback()
def _settings(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    warning = replace_unwritable_caches()
    if warning:
        say(f"warning: {warning}", sys.stderr)
    context.obj = CommandConsole(stderr=as_json, highlight=False)


@app.command()
def train(
    context: typer.Context,
    experiment: Annotated[
        str | None, typer.Argument(metavar="EXPERIMENT", help="A name or a YAML file.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on from the run's last good checkpoint.")
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Name of the run; one of that name is gone on with."),
    ] = None,
    take_over: TakeOver = False,
) -> Result:
    """Meta-train, then meta-test on held-out tasks."""
    from jobs import commands

    console: Console = context.obj
    words = [word for word in (experiment, *(overrides or [])) if word is not None]
    if resume is not None:
        if run_id is not None:
            raise typer.BadParameter("--run-id and --resume: give one of the two")
        return commands.resume(console, resume, words, take_over)
    if take_over:
        raise typer.BadParameter("--take-over goes with --resume")
    if not words:
        raise typer.BadParameter("expected EXPERIMENT (see `outerloop experiments`) or --resume")
    return commands.train(console, words[0], words[1:], run_id)


@app.command()
def submit(
    context: typer.Context,
    experiment: Annotated[
        str | None, typer.Argument(metavar="EXPERIMENT", help="A name or a YAML file.")
    ] = None,
    overrides: Overrides = None,
    address: Address = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Go on with a run on the cluster: its id, or a copy's."),
    ] = None,
    job_id: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the job; default: the run's id.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Environment of driver and workers; repeatable."),
    ] = None,
    include: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="File or folder to ship along; repeatable."),
    ] = None,
    python: Annotated[
        str, typer.Option(metavar="COMMAND", help="Python on the cluster's nodes.")
    ] = "python",
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once the job is submitted.")
    ] = False,
) -> Result:
    """Meta-train on a Ray cluster, as a job, and follow it."""
    from jobs.cluster import submitting

    words = [word for word in (experiment, *(overrides or [])) if word is not None]
    if resume is None and not words:
        raise typer.BadParameter("expected EXPERIMENT (see `outerloop experiments`) or --resume")
    return submitting.submit(
        context.obj, words, resume, address, job_id, env or [], include or [], python, detach
    )


@jobs.command("list")
def jobs_list(context: typer.Context, address: Address = None) -> Result:
    """List the jobs of a cluster, newest first."""
    from jobs.cluster import submitting

    return submitting.list_jobs(context.obj, address)


@jobs.command("status")
def jobs_status(context: typer.Context, job: JobName, address: Address = None) -> Result:
    """Say what became of a job, and where its run is."""
    from jobs.cluster import submitting

    return submitting.status(context.obj, address, job)


@jobs.command("logs")
def jobs_logs(
    context: typer.Context,
    job: JobName,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
) -> Result:
    """Print what a job has said."""
    from jobs.cluster import submitting

    return submitting.logs(context.obj, address, job, follow)


@jobs.command("stop")
def jobs_stop(context: typer.Context, job: JobName, address: Address = None) -> Result:
    """Stop a job with a checkpoint, and wait until it has ended."""
    from jobs.cluster import submitting

    return submitting.stop(context.obj, address, job)


@app.command()
def evaluate(
    context: typer.Context,
    run: RunName,
    overrides: Overrides = None,
    baselines: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="In place of the experiment's own.")
    ] = None,
    take_over: TakeOver = False,
) -> Result:
    """Meta-test a run on its held-out tasks, beside its baselines; with KEY=VALUE another test."""
    from jobs import commands

    names = None if baselines is None else tuple(name for name in baselines.split(",") if name)
    return commands.evaluate(context.obj, run, names, overrides or [], take_over)


@app.command()
def runs(context: typer.Context) -> Result:
    """List the runs, newest first: how far each is, and what of."""
    from jobs.tables import rows_table
    from pipeline.run_list import overview

    rows = overview()
    columns = ("run", "experiment", "method", "state", "steps", "started")
    cells = [
        (r.run_id, r.experiment, r.method, _state_of(r), f"{r.outer_steps}/{last}", r.begun)
        for r in rows
        for last in ["?" if r.num_outer_steps is None else r.num_outer_steps]
    ]
    context.obj.print(rows_table(f"Runs in {home()}", columns, cells))
    return {"runs": [asdict(row) for row in rows]}


def _state_of(row: RunRow) -> str:
    by_budget = row.ended_by not in ("", "meta.num_steps")
    return f"{row.state} by {row.ended_by}" if by_budget else row.state


@app.command()
def compare(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Evaluated runs.")],
    plot: Annotated[
        Path | None,
        typer.Option(help="File to write: .png, .pdf or .svg; default: one among the runs."),
    ] = None,
    target_return: Annotated[
        float | None,
        typer.Option(
            metavar="X", callback=_finite, help="Environments: report env steps to this return."
        ),
    ] = None,
) -> Result:
    """Put the meta-tests of several runs into one table and one plot."""
    from jobs import commands

    return commands.compare(context.obj, runs, plot, target_return)


@app.command()
def watch(
    context: typer.Context,
    run: RunHere,
    game: Annotated[
        str,
        typer.Option("--game", "--task", metavar="NAME", help="Any game; control: e.g. test-0."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write: .mp4 or .gif; default: in the run."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="scratch: without what was learned; default: the run's own.")
    ] = "",
    steps: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Inner steps of adaptation; default: the test's."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(min=0.1, max=3600, callback=_finite, help="Of play, at the most."),
    ] = 60.0,
) -> Result:
    """Adapt a run's agent to a game or control task, and make a video of one episode."""
    from jobs import watching

    return watching.watch(context.obj, run, game, method, steps, seconds, output)


@app.command()
def verify(
    context: typer.Context,
    run: RunHere,
    mlflow_timeout: Annotated[
        int,
        typer.Option(
            min=0, max=3600, metavar="S", help="Seconds to wait for MLflow; 0: not asked."
        ),
    ] = 60,
) -> Result:
    """Check a run's folder from end to end, and MLflow against it; changes nothing."""
    from jobs import verifying

    return verifying.verify(context.obj, run, mlflow_timeout)


@app.command("sync")
def sync_command(
    context: typer.Context,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN...]", help="Default: all that wait.")
    ] = None,
) -> Result:
    """Send MLflow what it has not got of runs that have ended, as when it was away."""
    from jobs import syncing

    return syncing.sync_runs(context.obj, runs or [])


@app.command()
def export(
    context: typer.Context,
    run: RunName,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
) -> Result:
    """Write a run's model to a folder of its own: weights, configuration, card."""
    from jobs import commands

    return commands.export(context.obj, run, folder)


@app.command()
def register(
    context: typer.Context,
    run: RunHere,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the model in the registry.")],
) -> Result:
    """Register a run's model in MLflow's model registry, for mlflow.pyfunc.load_model."""
    from jobs import commands

    return commands.register(context.obj, run, name)


@app.command()
def experiments(context: typer.Context) -> Result:
    """List the experiments that ship with the package."""
    from jobs import catalog
    from jobs.tables import rows_table

    rows = {name: catalog.describe(name) for name in catalog.experiment_names()}
    context.obj.print(rows_table("Experiments", ("name", "what it is"), rows.items()))
    return {"experiments": rows}


@app.command()
def show(
    context: typer.Context,
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT")],
    overrides: Overrides = None,
) -> Result:
    """Print the resolved experiment with each key explained, as a YAML file to start from."""
    from jobs import catalog

    resolved = catalog.load(experiment, overrides or [])
    context.obj.print(catalog.explained_yaml(resolved), markup=False, soft_wrap=True, end="")
    return {"experiment": resolved.model_dump(mode="json")}


@app.command()
def ui(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
) -> Result:
    """Serve the MLflow pages of the runs until Ctrl+C."""
    from jobs import ui as pages

    return pages.serve(context.obj, host, port)


@app.command()
def doctor(context: typer.Context) -> Result:
    """Check what works on this machine, and say how to mend the rest."""
    from jobs import doctor as checks

    return checks.report(context.obj)


@data.command("list")
def data_list(context: typer.Context) -> Result:
    """List the data sets and where they are."""
    from jobs import datasets

    return datasets.show(context.obj)


@data.command("fetch")
def data_fetch(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder that holds the archives already.")
    ] = None,
) -> Result:
    """Download a data set, or take it from a folder; check it and print each file's SHA-256."""
    from jobs import datasets

    return datasets.fetch(context.obj, name, source)


@bench.command("inner-loop")
def bench_inner_loop(
    context: typer.Context,
    overrides: Overrides = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Compare bfloat16 with float32 too; takes minutes.")
    ] = False,
) -> Result:
    """Inner steps a second on leap-omniglot, against a plain PyTorch loop."""
    from jobs import commands
    from jobs.bench import inner_loop

    values = inner_loop.run(device=device, accuracy=accuracy, overrides=tuple(overrides or ()))
    return commands.figures(context.obj, "bench inner-loop", values)


@bench.command("pipeline")
def bench_pipeline(context: typer.Context, overrides: Overrides = None) -> Result:
    """Throughput of the pipeline on leap-omniglot, against bare inner loops."""
    from jobs import commands
    from jobs.bench import pipeline

    values = pipeline.run(overrides=tuple(overrides or ()))
    return commands.figures(context.obj, "bench pipeline", values)


@bench.command("episodes")
def bench_episodes(context: typer.Context, overrides: Overrides = None) -> Result:
    """Meta-steps a second and memory of episode learners, against public libraries."""
    from jobs import commands
    from jobs.bench import episodes

    values = episodes.run(overrides=tuple(overrides or ()))
    return commands.figures(context.obj, "bench episodes", values)


@bench.command("atari")
def bench_atari(
    context: typer.Context,
    overrides: Overrides = None,
    game: Annotated[str, typer.Option(help="Game to play.")] = "breakout",
) -> Result:
    """Env steps a second of A2C on Atari, against what ALE and the network allow, and a peer."""
    from jobs import commands
    from jobs.bench import atari

    values = atari.run(game, overrides=tuple(overrides or ()))
    return commands.figures(context.obj, "bench atari", values)


@bench.command("control-plane")
def bench_control_plane(context: typer.Context, overrides: Overrides = None) -> Result:
    """Tasks a second, time of outer steps with empty inner loops: what the pipeline sustains."""
    from jobs import commands
    from jobs.bench import control_plane

    values = control_plane.run(console=context.obj, overrides=tuple(overrides or ()))
    return commands.figures(context.obj, "bench control-plane", values)


@bench.command("recovery")
def bench_recovery(
    context: typer.Context,
    overrides: Overrides = None,
    deaths: Annotated[int, typer.Option(min=1, max=MOST, help="How many workers are killed.")] = 20,
) -> Result:
    """Time from a worker's death until its task runs again; what checkpoints take."""
    from jobs import commands
    from jobs.bench import recovery

    values = recovery.run(deaths, context.obj, tuple(overrides or ()))
    return commands.figures(context.obj, "bench recovery", values)


@bench.command("soak")
def bench_soak(
    context: typer.Context,
    overrides: Overrides = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, max=MOST, callback=_finite, help="For how long.")
    ] = 60.0,
) -> Result:
    """Very many tiny tasks: what grows, and whether it slows down."""
    from jobs import commands
    from jobs.bench import soak

    values = soak.run(minutes, context.obj, tuple(overrides or ()))
    return commands.figures(context.obj, "bench soak", values)


@bench.command("chaos")
def bench_chaos(
    context: typer.Context,
    overrides: Overrides = None,
    faults: Annotated[int, typer.Option(min=1, max=MOST, help="How many faults in all.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of when and what.")] = 0,
    nodes: Annotated[int, typer.Option(min=1, max=2, help="Ray nodes on this machine.")] = 1,
) -> Result:
    """Runs under random faults (processes killed, a full disk, …), against one without."""
    from jobs import commands
    from jobs.bench import chaos

    values = chaos.run(faults, seed, nodes, context.obj, tuple(overrides or ()))
    return commands.figures(context.obj, "bench chaos", values)


def main() -> None:
    """Run the command line and exit with its code."""
    take_standard_streams()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output(1)
    except OSError as error:
        code = _report(*line_and_code(error), as_json=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left that could be interrupted
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code. An error is one line on stderr, no traceback.

    0 ok, 1 the run failed, 2 bad input, 130 interrupted. With `--json`, before or after the
    subcommand, stdout ends with the command's result or its `error` and `exit_code`.
    """
    as_json = "--json" in arguments
    words = [word for word in arguments if word != "--json"] or ["--help"]
    try:
        result = app(
            args=["--json"] * as_json + words, prog_name="outerloop", standalone_mode=False
        )
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # nobody reads typer's own help
            drop_output(1)
            return 0
        line, code = line_and_code_of_exit(error)
        return _report(line, code, as_json) if code else 0
    except Exception as error:
        return _report(*line_and_code(error), as_json)
    if result == 130:  # typer's answer to KeyboardInterrupt
        return _report("interrupted", 130, as_json)
    if isinstance(result, dict):
        try:
            if as_json:
                _print_json(result)
        except OSError as error:
            return _report(*line_and_code(error), as_json=False)
        return int(result.get("exit_code", 0))
    return int(result or 0)  # --help and the like


def _report(line: str, code: int, as_json: bool) -> int:
    line = " ".join(line.split())
    say(f"error: {line}", sys.stderr)
    if as_json:
        with contextlib.suppress(OSError):  # the line is said
            _print_json({"error": line, "exit_code": code})
    return code


def _print_json(result: Result) -> None:
    from pipeline.runs import json_text

    say(json_text(result), sys.stdout)


if __name__ == "__main__":
    main()
