"""A Trainer for a benchmark: the whole of the pipeline, with all its books."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console

from jobs.progress import PlainLines
from pipeline.backend import Backend
from pipeline.checkpoint import CheckpointStore
from pipeline.config import Experiment
from pipeline.errors import BadInputError
from pipeline.interrupt import StopRequest
from pipeline.journal import Journals
from pipeline.network import build_network
from pipeline.progress import SilentProgress
from pipeline.redaction import redact
from pipeline.tasks import task_family
from pipeline.tracking import Tracker
from pipeline.trainer import Books, Trainer
from pipeline.trajectories import TrajectoryWriter


def check_workers_here(bench: str, experiment: Experiment) -> None:
    """Raise BadInputError unless `experiment` can be run, with worker processes on this machine."""
    workers = experiment.workers
    if workers.count == 0:
        raise BadInputError(
            f"workers.count=0: {bench} is of worker processes, and this asks for none; give at "
            "least 1, or auto"
        )
    if workers.address:
        raise BadInputError(
            f"workers.address={redact(workers.address)}: {bench} is of a Ray that it starts on "
            "this machine; leave the address out"
        )
    task_family(experiment, torch.device("cpu"))
    build_network(experiment)


@contextmanager
def asked_to_stop(console: Console | None) -> Iterator[StopRequest]:
    """Give the request to stop that signals make while the block runs."""
    stop = StopRequest(PlainLines(console) if console else None)
    stop.what_follows = "stopping"
    stop.how_to_go_on = lambda: "on the way; there are no figures"
    with stop.listening():
        yield stop


@contextmanager
def training(
    experiment: Experiment, backend: Backend, stop: StopRequest | None = None
) -> Iterator[tuple[Trainer, Books]]:
    """Give a Trainer over `backend`, and its books in a temporary folder; end all of it after.

    With `stop` it raises InterruptedRunError after a signal.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outerloop-bench-")))
        stack.callback(backend.close)
        tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", "bench", folder / "run")
        stack.callback(lambda: tracker.finish("FINISHED"))
        books = Books(
            CheckpointStore(folder / "checkpoints", keep=experiment.checkpoint.keep),
            TrajectoryWriter(folder / "trajectories"),
            Journals(folder / "in_flight"),
            tracker,
        )
        yield Trainer(experiment, backend, books, stop or StopRequest(), SilentProgress()), books
