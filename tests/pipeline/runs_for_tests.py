"""Tiny but real runs: the trainer, a backend and books in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.backend import Backend
from pipeline.checkpoint import CheckpointStore
from pipeline.config import Experiment
from pipeline.interrupt import StopRequest
from pipeline.journal import Journals
from pipeline.progress import SilentProgress
from pipeline.trainer import Books, Trainer
from pipeline.trajectories import TrajectoryWriter


@contextmanager
def at_home(folder: Path) -> Iterator[Path]:
    """Have runs, and the store that they are tracked in, be in `folder` while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTERLOOP_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


class Curves:
    """Keeps what is logged, as a metric sink."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, step: int, values: Any) -> None:
        self.points.append((step, dict(values)))

    def sync(self) -> None:
        pass


def tiny(**sections: Any) -> Experiment:
    """An experiment of a second: few filters, few steps, several segments a task."""
    tree: dict[str, Any] = {
        "data": {"name": "glyphs", "num_train_tasks": 5, "num_test_tasks": 2},
        "task": {"num_ways": 5, "batch_size": 8},
        "model": {"num_filters": 8},
        "inner": {"num_steps": 9, "segment_steps": 4},
        "meta": {"batch_size": 4, "num_steps": 3},
        "workers": {"count": 0},
        "evaluation": {"num_steps": 5},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section} if isinstance(section, dict) else section
    return Experiment.model_validate(tree)


def make_trainer(
    experiment: Experiment, backend: Backend, folder: Path, version: int = 0
) -> tuple[Trainer, Books]:
    """A trainer with real books in `folder`."""
    books = Books(
        CheckpointStore(folder / "checkpoints", keep=2),
        TrajectoryWriter(folder / "trajectories"),
        Journals(folder / "in_flight"),
        Curves(),
    )
    saved = books.checkpoints.load(version).meta if version else {}
    trainer = Trainer(
        experiment,
        backend,
        books,
        StopRequest(),
        SilentProgress(),
        version,
        saved.get("schedule"),
    )
    return trainer, books


def parameters(folder: Path) -> np.ndarray:
    """Outer parameters of the newest checkpoint in `folder`."""
    checkpoint = CheckpointStore(folder / "checkpoints", keep=2).load_latest()
    assert checkpoint is not None
    return checkpoint.params
