"""Random damage to everything that is read: one line at most, never a wrong answer.

By default some dozens of inputs each. `OUTERLOOP_FUZZ=20` takes twenty times as many; with
`-m slow` the whole of it: over 100,000 inputs.
"""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from jobs.catalog import FOLDER
from pipeline.checkpoint import CheckpointStore
from pipeline.config import Experiment, load_experiment
from pipeline.data.archives import open_archive
from pipeline.errors import BadInputError, OuterloopError
from pipeline.evaluation import Evaluation
from pipeline.export import export_run, read_exported
from pipeline.journal import TaskJournal
from pipeline.messages import TRAJECTORY_SCHEMA
from pipeline.metric_log import MetricLog, read_points
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from pipeline.session import resume, train
from pipeline.task_states import DamagedStateError, read_state, write_state
from pipeline.trajectories import TrajectoryWriter, read_trajectories
from pipeline.verify import verify_run
from tests.fuzz.mutations import fuzz, fuzz_several
from tests.pipeline.episodes_for_tests import tiny_episodes
from tests.pipeline.runs_for_tests import at_home, tiny

TIMES = int(os.environ.get("OUTERLOOP_FUZZ", "1"))


def amounts(few: int, many: int):
    """Parameters of a test: how many inputs, by default and with `-m slow`."""
    return pytest.mark.parametrize(
        "count",
        [
            pytest.param(few * TIMES, id="few"),
            pytest.param(many, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(7200)]),
        ],
    )


def listing(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@amounts(150, 40_000)
def test_a_configuration_is_taken_or_refused_in_one_line(tmp_path, count):
    sources = [path.read_bytes() for path in sorted(FOLDER.glob("*.yaml"))]
    sources.append(yaml.safe_dump(tiny().model_dump(mode="json")).encode())
    path = tmp_path / "damaged.yaml"

    def attempt(damage):
        path.write_bytes(damage.of(damage.choice(sources)))
        try:
            assert isinstance(load_experiment(path), Experiment)
        except BadInputError as error:
            assert "\n" not in str(error)

    fuzz(attempt, count)
    assert listing(tmp_path) == {str(path)}


@amounts(100, 15_000)
def test_a_checkpoint_is_whole_or_the_one_before_is_taken(tmp_path, count):
    store = CheckpointStore(tmp_path / "sound", keep=2)
    for step in (1, 2):
        params = np.full(50, step, np.float32)
        store.save(step, [(0, params, {"exp_avg": params, "step": np.array(step)})], {"n": step})

    def attempt(damage):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "sound", folder)
        path = damage.choice(sorted((folder / "step-000002").iterdir()))
        path.write_bytes(damage.of(path.read_bytes()))
        try:
            found = CheckpointStore(folder, keep=2).load_latest()
            assert found is not None
            np.testing.assert_array_equal(found.params, np.full(50, found.step, np.float32))
            assert found.meta == {"n": found.step}
        except BadInputError as error:  # its format is that of a later version
            assert "format" in str(error)

    fuzz(attempt, count)
    assert {path.name for path in tmp_path.iterdir()} == {"sound", "damaged"}


@amounts(200, 20_000)
def test_a_checkpoint_inside_a_task_is_whole_or_named_as_damaged(tmp_path, count):
    state = {"version": 3, "loop": {"values": torch.arange(40.0), "step": 7}, "closed": False}
    write_state(tmp_path, 7, state)
    (path,) = tmp_path.iterdir()
    sound = path.read_bytes()

    def attempt(damage):
        damaged = damage.of(sound)
        path.write_bytes(damaged)
        try:
            found = read_state(tmp_path, 7)
            assert damaged == sound
            assert torch.equal(found["loop"]["values"], torch.arange(40.0))
        except DamagedStateError:
            assert damaged != sound

    fuzz(attempt, count)
    assert listing(tmp_path) == {str(path)}


def archive_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images_background/Greek/character01/0001_01.png", "b.txt", "../c.txt"):
            archive.writestr(name.lstrip("./") if name == "b.txt" else name[:60], b"x" * 300)
    return buffer.getvalue()


@amounts(200, 20_000)
def test_an_archive_is_read_or_refused_and_nothing_is_written(tmp_path, count):
    path = tmp_path / "a.zip"
    sound = archive_bytes().replace(b"../c.txt", b"cc/c.txt")

    def attempt(damage):
        path.write_bytes(damage.of(sound))
        try:
            with open_archive(path, max_entry_bytes=4096) as files:
                for name, read in files.items():
                    assert ".." not in name.split("/")
                    assert len(read()) <= 4096
        except BadInputError:
            pass

    fuzz(attempt, count)
    assert listing(tmp_path) == {str(path)}


def rows(count: int) -> pa.RecordBatch:
    columns = {
        name: [float(i) for i in range(count)]
        for name in ("loss", "error", "grad_norm", "path_length", "lr", "wall_ms")
    }
    whole = {"meta_step": [0] * count, "task": [0] * count, "attempt": [0] * count}
    nothing = dict.fromkeys(
        ("env_steps", "episode_return", "episode_length", "entropy"), [None] * count
    )
    columns |= whole | {"task_name": ["a"] * count, "step": list(range(count))} | nothing
    return pa.RecordBatch.from_pydict(columns, schema=TRAJECTORY_SCHEMA)


@amounts(60, 8_000)
def test_rows_of_a_task_under_way_are_those_that_were_written(tmp_path, count):
    journal = TaskJournal(tmp_path / "sound")
    for _ in range(2):
        journal.add(rows(30).slice(0, 30))
        journal.sync()
    names = sorted(path.name for path in (tmp_path / "sound").iterdir())

    def attempt(damage):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "sound", folder)
        path = folder / damage.choice(names)
        path.write_bytes(damage.of(path.read_bytes()))
        found = TaskJournal.open(folder)
        assert found.num_rows in (0, 30, 60)
        expected = (list(range(30)) * 2)[: found.num_rows]
        assert found.table()["step"].to_pylist() == expected

    fuzz(attempt, count)


@amounts(60, 8_000)
def test_trajectories_are_read_or_refused_in_one_line(tmp_path, count):
    journal = TaskJournal(tmp_path / "task")
    journal.add(rows(30))
    journal.sync()
    TrajectoryWriter(tmp_path / "trajectories").commit(0, [journal])
    (path,) = (tmp_path / "trajectories").rglob("*.parquet")
    sound, refused = path.read_bytes(), []

    def attempt(damage):
        path.write_bytes(damage.of(sound))
        try:
            table = read_trajectories(tmp_path / "trajectories")
            assert table.schema == TRAJECTORY_SCHEMA
        except BadInputError as error:
            refused.append(str(error))
            assert "\n" not in refused[-1]

    fuzz(attempt, count)
    assert len(refused) > count / 3


@amounts(60, 6_000)
def test_the_metric_log_goes_on_whatever_is_in_it(tmp_path, count):
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    for step in range(1, 20):
        log.append(step, {"train/loss": 1 / step, "outer/grad_norm": step}, 1_700_000_000_000)
    log.close()
    sound = path.read_bytes()

    def attempt(damage):
        path.write_bytes(damage.of(sound))
        log = MetricLog(path)
        log.append(10**9, {"train/loss": 0.5}, 1_700_000_000_001)
        log.close()
        points, _ = read_points(path, 0, 1000)
        assert points[-1].value == 0.5

    fuzz(attempt, count)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A home with a small run, complete but for its last outer steps, and what it comes to."""
    home = tmp_path_factory.mktemp("home")
    with at_home(home):
        experiment = tiny(
            meta={"num_steps": 4, "batch_size": 2},
            checkpoint={"every": 1},
            inner={"num_steps": 8, "segment_steps": 4, "checkpoint_every": 4},
            evaluation={"num_steps": 2},
        )
        result = train(experiment, SilentProgress())
        more = resume(RunFolder(result.run_dir), ["meta.num_steps=5"], SilentProgress())
        shutil.rmtree(result.run_dir / "checkpoints" / "step-000005")
    return home, result.run_dir.name, more.parameters_sha256


@amounts(6, 400)
def test_a_run_is_resumed_to_the_same_end_or_refused(finished, tmp_path, monkeypatch, count):
    source, name, expected = finished

    def attempt(damages):
        home = tmp_path / "home"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(source, home)
        monkeypatch.setenv("OUTERLOOP_HOME", str(home))
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run = RunFolder(home / name)
        files = sorted(p for p in run.path.rglob("*") if p.is_file() and p.stat().st_size)
        for damage in damages:
            path = damage.choice([p for p in files if p.name != ".lock"])
            path.write_bytes(damage.of(path.read_bytes()))
        try:
            verify_run(run, 10.0)
            result = resume(run, [], SilentProgress())
            assert result.parameters_sha256 == expected
        except OuterloopError as error:
            assert "\n" not in str(error)
        assert {path.name for path in tmp_path.iterdir()} == {"home"}

    fuzz_several(attempt, count)


@amounts(50, 4_000)
def test_a_meta_test_on_record_is_read_or_refused(finished, tmp_path, count):
    home, name, _ = finished
    sound = (home / name / "evaluation" / "curves.parquet").read_bytes()
    path = tmp_path / "run" / "evaluation" / "curves.parquet"
    path.parent.mkdir(parents=True)

    def attempt(damage):
        path.write_bytes(damage.of(sound))
        try:
            curves = Evaluation.from_parquet(path.parent).curves
        except BadInputError as error:
            assert "evaluate" in str(error)
            assert "\n" not in str(error)
        else:
            assert curves

    fuzz(attempt, count)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a model that was exported."""
    home = tmp_path_factory.mktemp("exported")
    with at_home(home / "runs"):
        result = train(tiny_episodes(), SilentProgress())
        export_run(RunFolder(result.run_dir), home / "model")
    return home / "model"


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # sizes that lie
@amounts(30, 4_000)
def test_an_exported_model_is_loaded_or_refused(exported, tmp_path, count):
    sound = read_exported(exported).model.state_dict()

    def attempt(damage):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exported, folder)
        path = damage.choice(sorted(path for path in folder.iterdir() if path.is_file()))
        path.write_bytes(damage.of(path.read_bytes()))
        try:
            found = read_exported(folder).model.state_dict()
        except BadInputError as error:
            assert "\n" not in str(error)
        else:
            assert all(torch.equal(found[name], tensor) for name, tensor in sound.items())

    fuzz(attempt, count)
