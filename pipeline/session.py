"""What a command does with a run, from end to end: train it, resume it, meta-test it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.backend import Backend
from pipeline.budgets import budgets, spent
from pipeline.checkpoint import Checkpoint, CheckpointStore
from pipeline.config import Experiment, load_experiment, to_yaml
from pipeline.copies import AnyCopies, check_copy_to, copying
from pipeline.errors import BadInputError
from pipeline.evaluation import Evaluation
from pipeline.files import disk_errors, write_atomic
from pipeline.interrupt import StopRequest
from pipeline.network import build_network
from pipeline.progress import Progress
from pipeline.redaction import redact
from pipeline.resumable import RESUMABLE, check_fixed, check_meta, check_same
from pipeline.run_session import RunSession, TrainResult
from pipeline.runs import RunFolder, check_home, home
from pipeline.server import Start
from pipeline.tasks import task_family
from pipeline.tracking import tracking_uri
from pipeline.tracking_marks import read_target

__all__ = ["TrainResult", "evaluate", "go_on", "resume", "train"]

BASELINES = ("scratch",)
# What a meta-test of a trained run may change: the test, not what is tested.
TESTABLE = ("episodes.num_", "episodes.test", "evaluation.")


def train(experiment: Experiment, progress: Progress, run_id: str = "") -> TrainResult:
    """Start a run and bring it to its end, the meta-test included.

    Its id is `run_id`, by default a new one. Raises BadInputError before anything is written when
    the experiment cannot be run here.
    """
    check_baselines(experiment.evaluation.baselines)
    tracking_uri(experiment.tracking.uri, home())
    check_copy_to(experiment.checkpoint.copy_to)
    check_home()
    if experiment.meta.num_steps == 0:
        progress.message("meta.steps=0: nothing is trained; the meta-test is of the initialisation")
    with _listening(experiment, Start(), progress) as (backend, stop):
        run = RunFolder.create(experiment, run_id)
        with run.locked(), copying(run, experiment, 0) as copies:
            return RunSession(run, experiment, backend, stop, progress, None, copies).train()


def resume(
    run: RunFolder, overrides: Sequence[str], progress: Progress, take_over: bool = False
) -> TrainResult:
    """Go on from the run's last good checkpoint; only RESUMABLE keys may be overridden.

    `take_over`: even if another machine is at work on it, or went on with it.
    """
    with run.locked():
        return _resume(run, overrides, progress, take_over)


def go_on(run: RunFolder, experiment: Experiment, progress: Progress) -> TrainResult:
    """Go on with a run that is there already, of which `experiment` says all that it is to be.

    BadInputError if the run was trained with anything else than `experiment` says.
    """
    check_same(run.run_id, experiment, run.read_experiment())
    with run.locked():
        return _resume_as(run, experiment, progress, take_over=False)


def _resume(
    run: RunFolder, overrides: Sequence[str], progress: Progress, take_over: bool
) -> TrainResult:
    experiment = _overridden(run, overrides, RESUMABLE, "a resumed run")
    return _resume_as(run, experiment, progress, take_over)


def _resume_as(
    run: RunFolder, experiment: Experiment, progress: Progress, take_over: bool
) -> TrainResult:
    _check_places(run, experiment)
    checkpoint = _newest_checkpoint(run, experiment)
    step, last = checkpoint.step if checkpoint else 0, experiment.meta.num_steps
    if step > last:
        raise BadInputError(
            f"meta.steps={last}: the run has taken {step} outer steps; give at least as many"
        )
    start = Start() if checkpoint is None else Start(run.checkpoints, step)
    with copying(run, experiment, step, take_over) as copies:
        _say_whose_it_is(run, copies, progress)
        progress.message(_where_it_goes_on(run, checkpoint, experiment))
        with _listening(experiment, start, progress) as (backend, stop):
            with disk_errors(f"{run.config}", _then_resume(run)):
                write_atomic(run.config, to_yaml(experiment).encode())
            return RunSession(run, experiment, backend, stop, progress, checkpoint, copies).train()


def _check_places(run: RunFolder, experiment: Experiment) -> None:
    """Raise BadInputError for a damaged file or a wrong address before the work, not in it."""
    tracking_uri(experiment.tracking.uri, home())
    run.read_summary()
    read_target(run.metrics.parent)


def _newest_checkpoint(run: RunFolder, experiment: Experiment) -> Checkpoint | None:
    """Return the run's last good checkpoint, held against the run's configuration."""
    store = CheckpointStore(run.checkpoints, keep=experiment.checkpoint.keep)
    checkpoint = store.load_latest()
    if checkpoint is not None:
        check_meta(run.run_id, checkpoint.meta)
        check_fixed(run.run_id, run.read_experiment(), checkpoint.meta.get("experiment", {}))
    elif lost := _lost_steps(run):
        raise BadInputError(f"{run.checkpoints}: {lost}; put the folder back, or start a new run")
    return checkpoint


def _lost_steps(run: RunFolder) -> str:
    """Return how it is known that the run had a checkpoint; empty if it may never have had one."""
    counts = run.read_summary().get("counts")
    steps = counts.get("outer_steps") if isinstance(counts, dict) else None
    if steps:
        return f"holds no checkpoint, but summary.json tells of {steps} outer steps"
    return "" if run.checkpoints.is_dir() else "is missing"


def _then_resume(run: RunFolder) -> str:
    return f"free space or mend the folder, then go on with: outerloop train --resume {run.run_id}"


def evaluate(
    run: RunFolder,
    baselines: Sequence[str] | None,
    progress: Progress,
    overrides: Sequence[str] = (),
    take_over: bool = False,
) -> tuple[Evaluation, Path]:
    """Meta-test the run's last good checkpoint against `baselines` (its experiment's, if None).

    `overrides` of TESTABLE keys make another test of it, e.g. with more ways: its result lies in a
    folder of its own within the run's `evaluation/`, and the run's own test stays as it is.
    `take_over` as of `resume`.
    """
    with run.locked():
        return _evaluate(run, baselines, progress, overrides, take_over)


def _evaluate(
    run: RunFolder,
    baselines: Sequence[str] | None,
    progress: Progress,
    overrides: Sequence[str],
    take_over: bool,
) -> tuple[Evaluation, Path]:
    kept = _as_trained(run, overrides)
    experiment = _overridden(run, overrides, TESTABLE, "a meta-test", kept)
    _check_places(run, experiment)
    checkpoint = _newest_checkpoint(run, experiment)
    if checkpoint is None:
        raise BadInputError(
            f"run {run.run_id} has no checkpoint; run: outerloop train --resume {run.run_id}"
        )
    baselines = experiment.evaluation.baselines if baselines is None else tuple(baselines)
    check_baselines(baselines)
    start = Start(run.checkpoints, checkpoint.step)
    with (
        copying(run, experiment, checkpoint.step, take_over) as copies,
        _listening(experiment, start, progress) as (backend, stop),
    ):
        _say_whose_it_is(run, copies, progress)
        session = RunSession(run, experiment, backend, stop, progress, checkpoint, copies)
        return session.evaluate(baselines, other_test=",".join(sorted(overrides)))


def check_baselines(baselines: Sequence[str]) -> None:
    """Raise BadInputError for a baseline that a run cannot meta-test by itself."""
    for name in baselines:
        if list(baselines).count(name) > 1:
            raise BadInputError(f"evaluation.baselines: '{name}' is there twice; name it once")
        if name not in BASELINES:
            raise BadInputError(
                f"baseline '{name}': expected {', '.join(BASELINES)}; a method that is "
                "meta-trained, such as finetune, is a run of its own: put both beside each other "
                "with `outerloop compare RUN RUN`"
            )


@contextmanager
def _listening(
    experiment: Experiment, start: Start, progress: Progress
) -> Iterator[tuple[Backend, StopRequest]]:
    """Give a backend, and the request to stop that signals make from now on."""
    with (
        StopRequest(progress).listening() as stop,
        open_backend(experiment, start, progress) as backend,
    ):
        stop.begin()
        yield backend, stop


@contextmanager
def open_backend(experiment: Experiment, start: Start, progress: Progress) -> Iterator[Backend]:
    """Give workers and aggregator, in this process or on Ray, and end them afterwards."""
    # Decodes the data once, before several workers want it, and finds what is missing.
    task_family(experiment, torch.device("cpu"))
    build_network(experiment)  # finds what does not fit, or is not there
    backend: Backend
    if experiment.workers.count == 0:
        from pipeline.local import LocalBackend

        backend = LocalBackend(experiment, start)
    else:
        from pipeline.cluster import RayBackend
        from pipeline.resources import said_of

        count = experiment.workers.count
        wanted = "workers" if count == "auto" else f"{count} worker{'s' * (count != 1)}"
        progress.message(f"starting {wanted}…")
        backend = RayBackend(experiment, start)
        if experiment.workers.address:
            progress.message(said_of(experiment))
    try:
        yield backend
    finally:
        backend.close()


def _say_whose_it_is(run: RunFolder, copies: AnyCopies, progress: Progress) -> None:
    if copies.came_from:
        progress.message(
            f"run {run.run_id} was at work on {copies.came_from}, and is this machine's from now "
            "on: to go on with it there, fetch it there, or give --take-over"
        )


def _where_it_goes_on(run: RunFolder, checkpoint: Checkpoint | None, experiment: Experiment) -> str:
    last, meta = experiment.meta.num_steps, experiment.meta.model_dump()
    if checkpoint is None:
        return f"run {run.run_id} has no checkpoint yet: it begins from the start"
    step, counts = checkpoint.step, checkpoint.meta["counters"]
    key = spent(meta, counts)
    if step < last and not key:
        return f"run {run.run_id} goes on from outer step {step} of {last}"
    tested = _is_tested(run, step)
    left = "the meta-test alone is done again" if tested else "only the meta-test is left to do"
    if step == last:
        return (
            f"run {run.run_id} is finished ({last} outer steps): {left}; "
            f"to train on, add meta.steps={max(2 * last, 1)}"
        )
    budget = budgets(meta, counts)[key]
    return (
        f"run {run.run_id}: {key}={budget.most} is used up after {step} of {last} outer steps: "
        f"{left}; to train on, add {key}={budget.more()}"
    )


def _is_tested(run: RunFolder, step: int) -> bool:
    counts = run.read_summary().get("counts")
    return isinstance(counts, dict) and counts.get("outer_steps") == step


def _spelled(keys: tuple[str, ...]) -> str:
    """Return the keys, with a star where any that begin so are meant."""
    return ", ".join(f"{key}*" if key[-1] in "._" else key for key in keys)


def _as_trained(run: RunFolder, overrides: Sequence[str]) -> list[str]:
    """Return overrides that keep the sizes of meta-training episodes, if `overrides` change others.

    Batch-norm statistics are taken over meta-training episodes: a test of other episodes must not
    change them, and a size of 0 would follow the test.
    """
    if not any(text.startswith("episodes.num_") for text in overrides):
        return []
    episodes = run.read_experiment().episodes
    sizes = {
        "num_ways": episodes.train_num_ways or episodes.num_ways,
        "num_shots": episodes.train_num_shots or episodes.num_shots,
        "num_queries": episodes.train_num_queries or episodes.num_queries,
    }
    return [f"episodes.train_{key}={size}" for key, size in sizes.items()]


def _overridden(
    run: RunFolder,
    overrides: Sequence[str],
    keys: tuple[str, ...],
    what: str,
    kept: Sequence[str] = (),
) -> Experiment:
    """Return the run's experiment with overrides of `keys` alone, and `kept`, which are ours."""
    for text in overrides:
        key = text.partition("=")[0]
        if not key.startswith(keys):
            raise BadInputError(
                f"override '{redact(text)}': {what} can change {_spelled(keys)}; for anything else "
                "start a new run"
            )
    return load_experiment(run.config, [*kept, *overrides])
