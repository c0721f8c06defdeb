"""Small runs in this process that are copied, cut short, fetched and gone on with."""

from __future__ import annotations

import secrets
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from pipeline import session
from pipeline.checkpoint import CheckpointStore
from pipeline.fetch_run import open_run
from pipeline.metric_log import read_points
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from pipeline.storage import below
from pipeline.trajectories import read_trajectories
from pipeline.verify import verify_run
from tests.pipeline.mlflow_for_tests import client
from tests.pipeline.runs_for_tests import parameters, tiny

STEPS = 6


class KilledError(Exception):
    """Ends a run as if its process was killed."""


def experiment(copy_to: str, tracking: str, **sections):
    changed = {
        "meta": {"num_steps": STEPS, "batch_size": 2},
        "data": {"num_train_tasks": 4, "num_test_tasks": 1},
        "inner": {"num_steps": 4, "segment_steps": 4},
        "evaluation": {"num_steps": 2},
        "checkpoint": {"every": 1, "keep": 2, "copy_to": copy_to},
        "tracking": {"uri": tracking, "live_every_s": 0},
    }
    for name, section in sections.items():
        changed[name] = {**changed.get(name, {}), **section}
    return tiny(**changed)


class Machine:
    """A home of its own, in which runs are begun and gone on with."""

    def __init__(self, home: Path, monkeypatch) -> None:
        self.home = home
        self._monkeypatch = monkeypatch

    def train(self, copied) -> RunFolder:
        self._monkeypatch.setenv("OUTERLOOP_HOME", str(self.home))
        return RunFolder(session.train(copied, SilentProgress()).run_dir)

    def train_until(self, step: int, copied) -> RunFolder:
        """Train up to an outer step, with a meta-test there."""
        meta = copied.meta.model_copy(update={"num_steps": step})
        return self.train(copied.model_copy(update={"meta": meta}))

    def fetch(self, text: str, **options) -> RunFolder:
        self._monkeypatch.setenv("OUTERLOOP_HOME", str(self.home))
        return open_run(text, SilentProgress(), **options)

    def resume(self, text: str, *overrides: str, take_over: bool = False):
        run = self.fetch(text, take_over=take_over)
        return session.resume(run, overrides, SilentProgress(), take_over)

    def is_lost(self) -> None:
        gone = self.home.with_name(f"gone-{secrets.token_hex(4)}")
        self.home.rename(gone)  # at once, whatever a thread may still be doing in there
        shutil.rmtree(gone, ignore_errors=True)


def address_of(copied, run: RunFolder) -> str:
    return below(copied.checkpoint.copy_to, run.run_id)


def newest_step(run: RunFolder) -> int:
    return max(CheckpointStore(run.checkpoints, keep=2).steps(), default=0)


def assert_whole(result, undisturbed: RunFolder, tracking: str, last: int = STEPS) -> None:
    """The run is as one that was never disturbed, in its folder and in MLflow."""
    run = RunFolder(result.run_dir)
    np.testing.assert_array_equal(parameters(run.path), parameters(undisturbed.path))
    columns = ["meta_step", "task", "step", "loss"]
    rows = [read_trajectories(one.trajectories, columns) for one in (run, undisturbed)]
    assert (
        rows[0]
        .sort_by([(c, "ascending") for c in columns[:3]])
        .equals(rows[1].sort_by([(c, "ascending") for c in columns[:3]]))
    )
    assert pc.unique(rows[0]["meta_step"]).to_pylist() == list(range(last))
    curves = [points(one) for one in (run, undisturbed)]
    assert not [key for key, count in Counter(p[:2] for p in curves[0]).items() if count > 1]
    kept = [{p for p in one if p[0].startswith(("train/", "outer/"))} for one in curves]
    assert kept[0] == kept[1]
    in_mlflow = client(tracking).get_metric_history(result.mlflow_run_id, "train/loss")
    assert [point.step for point in in_mlflow] == list(range(1, last + 1))
    verdict = verify_run(run)
    assert verdict.report.problems == []
    assert verdict.state == "finished"
    assert verdict.report.checked["mlflow_waiting"] == 0


def points(run: RunFolder) -> list[tuple[str, int, float]]:
    found, _ = read_points(run.metrics, 0, 1_000_000)
    return [(point.key, point.step, point.value) for point in found]
