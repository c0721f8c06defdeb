"""The sqlite store is made whole or not at all: MLflow cannot open one that is half made."""

from __future__ import annotations

import pytest

from pipeline.mlflow_run import MlflowRun, RunIdentity
from tests.processes import kill_after

MAKE_A_RUN = """
import sys
from pathlib import Path
import mlflow.store.db.utils
from pipeline.mlflow_run import MlflowRun, RunIdentity
print("imported", flush=True)
folder = Path(sys.argv[1])
MlflowRun(f"sqlite:///{folder / 'mlflow.db'}", RunIdentity("e", "r", "t", folder / "a", 0))
print("made", flush=True)
import time
time.sleep(60)
"""


def make_run(folder):
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return MlflowRun(uri, RunIdentity("e", "r", "t", folder / "artifacts", 0))


@pytest.mark.parametrize("delay_s", [0.3, 1.2])
def test_a_process_killed_while_it_makes_the_store_leaves_none_or_a_whole_one(tmp_path, delay_s):
    kill_after(1, delay_s, MAKE_A_RUN, tmp_path)
    assert make_run(tmp_path).run_id


def test_a_new_store_leaves_nothing_else_behind(tmp_path):
    run = make_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mlflow.db"]
    assert make_run(tmp_path).run_id == run.run_id
