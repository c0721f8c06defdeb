"""A Trainer for a benchmark: the whole of the pipeline, with all its books."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.backend import Backend
from pipeline.checkpoint import CheckpointStore
from pipeline.config import Experiment
from pipeline.interrupt import StopRequest
from pipeline.journal import Journals
from pipeline.progress import SilentProgress
from pipeline.tracking import Tracker
from pipeline.trainer import Books, Trainer
from pipeline.trajectories import TrajectoryWriter


@contextmanager
def training(experiment: Experiment, backend: Backend) -> Iterator[tuple[Trainer, Books]]:
    """Give a Trainer over `backend`, and its books in a temporary folder; end all of it after."""
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
        yield Trainer(experiment, backend, books, StopRequest(), SilentProgress()), books
