"""The log against MLflow: what is missing, twice, other, or waits; and MLflow that is not there."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline import session
from pipeline.mlflow_run import MlflowReader
from pipeline.progress import SilentProgress
from pipeline.sent_record import read_sent
from pipeline.sync import sync
from pipeline.verify import verify_run
from tests.pipeline.runs_for_tests import tiny
from tests.pipeline.verify.conftest import FINE, trained
from tests.pipeline.verify.damage import edit_json

SQLITE = "sqlite:///"


@pytest.fixture
def stored(runs, copy, tmp_path):
    """A copy of a run and of the store that it is in: (run, path of the store, run in MLflow)."""
    run = copy(runs("sync"))
    target = run.path / "tracking" / "target.json"
    store = tmp_path / "a store#1.db"
    content = json.loads(target.read_text())
    shutil.copy(content["uri"].removeprefix(SQLITE), store)
    edit_json(target, lambda t: t.update(uri=f"{SQLITE}{store}"))
    return run, store, content["run_id"]


def change(store, *statement):
    with closing(sqlite3.connect(store)) as database:
        database.execute(*statement)
        database.commit()


def test_a_copy_of_a_store_is_as_good(stored):
    verdict = verify_run(stored[0])
    assert verdict.report.problems == []
    assert verdict.status == "FINISHED"


def test_a_server_is_asked_too(home, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run = trained(tiny(**FINE))
    verdict = verify_run(run)
    assert verdict.report.problems == []
    assert verdict.status == "FINISHED"
    assert verdict.report.checked["mlflow_points"] == verdict.report.checked["metric_points"] > 0
    assert verdict.report.checked["mlflow_files"] == len(FILES) + len(MODEL_FILES)
    with (run.path / "tracking" / "sent.jsonl").open("a") as record:
        for name, size in (("plots/gone.png", 1), ("summary.json", 3)):
            record.write(json.dumps({"kind": "artifact", "name": name, "size": size}) + "\n")
    first, second = verify_run(run).report.problems
    assert first.startswith("MLflow: artifact plots/gone.png is not there any more")
    assert second.startswith("MLflow: artifact summary.json has ")
    edit_json(run.path / "tracking" / "target.json", lambda t: t.update(run_id="0" * 32))
    (problem,) = verify_run(run).report.problems
    assert problem.endswith(f"has no run {'0' * 32}")


def test_a_run_that_moved_to_another_store_has_all_of_it_there_once_it_is_evaluated(
    home, server, monkeypatch
):
    run = trained(tiny(**FINE))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    sync(run)
    sent = read_sent(run.path / "tracking")
    assert (sent.params, sent.artifacts) == ({}, {})
    (problem,) = verify_run(run).report.problems
    assert problem == (
        f"MLflow: has no parameter of the run; send all with: outerloop evaluate {run.run_id}"
    )
    session.evaluate(run, (), SilentProgress())
    sent = read_sent(run.path / "tracking")
    assert sent.params["meta.num_steps"] == "4"
    assert {"summary.json", "config.yaml"} < sent.artifacts.keys()
    assert verify_run(run).report.problems == []


WHERE = "WHERE key = 'train/loss' AND step = 2 AND run_uuid = ?"
CHANGES = {
    "missing": (
        f"DELETE FROM metrics {WHERE}",
        ["MLflow: train/loss: no point of step 2, which was sent"],
        (1, 0),
    ),
    "another value": (
        f"UPDATE metrics SET value = value + 1 {WHERE}",
        [
            "MLflow: train/loss: no point of step 2, which was sent",
            "MLflow: train/loss: a point of step 2 that is not in metrics.jsonl",
        ],
        (1, 0),
    ),
    "twice": (
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) SELECT key, value, "
        f"timestamp + 1, run_uuid, step, is_nan FROM metrics {WHERE}",
        [
            "MLflow: train/loss: 1 steps have more than one point",
            "MLflow: train/loss: a point of step 2 that is not in metrics.jsonl",
        ],
        (0, 1),
    ),
    "a metric that no log has": (
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) SELECT 'extra', "
        f"value, timestamp, run_uuid, step, is_nan FROM metrics {WHERE}",
        [
            "MLflow: extra: a point of step 2 that is not in metrics.jsonl",
            "MLflow: extra: has points there, and no newest one: it is shown nowhere",
        ],
        (0, 0),
    ),
    "a metric of the system": (
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) SELECT 'system/cpu', "
        f"value, timestamp, run_uuid, step, is_nan FROM metrics {WHERE}",
        [],
        (0, 0),
    ),
    "newest points": (
        "DELETE FROM latest_metrics WHERE key IN ('train/loss', 'train/error') AND run_uuid = ?",
        ["MLflow: train/error and train/loss: has points there, and no newest one"],
        (0, 0),
    ),
    "all points of a step": (
        "DELETE FROM metrics WHERE step = 2 AND run_uuid = ?",
        [" more metrics: no point of step 2, which was sent"],
        None,
    ),
    "parameters gone": (
        "DELETE FROM params WHERE key IN ('seed', 'outer.lr') AND run_uuid = ?",
        ["MLflow: parameter seed, outer.lr are not there any more; resuming the run sends it"],
        (0, 0),
    ),
    "a parameter that may change": (
        "UPDATE params SET value = '7' WHERE key = 'meta.num_steps' AND run_uuid = ?",
        ["MLflow: parameter meta.num_steps is '7', and '4' was sent"],
        (0, 0),
    ),
    "a model": (
        "UPDATE logged_models SET lifecycle_stage = 'deleted' WHERE source_run_id = ?",
        ["MLflow: model custom step 4 is not there any more"],
        (0, 0),
    ),
    "a parameter": (
        "UPDATE params SET value = '7' WHERE key = 'seed' AND run_uuid = ?",
        ["config.yaml: seed is '0', and in MLflow '7'"],
        (0, 0),
    ),
    "another run": (
        "UPDATE tags SET value = 'x' WHERE key = 'outerloop.tracking_id' AND run_uuid = ?",
        ["is not this one, but another"],
        None,
    ),
    "deleted": (
        "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?",
        ["was deleted there"],
        None,
    ),
}


@pytest.mark.parametrize(("statement", "said", "counts"), CHANGES.values(), ids=list(CHANGES))
def test_what_mlflow_has_otherwise_is_named(stored, statement, said, counts):
    run, store, run_id = stored
    change(store, statement, (run_id,))
    report = verify_run(run).report
    assert len(report.problems) == len(said)
    for line, word in zip(report.problems, said, strict=True):
        assert word in line
    if counts is not None:
        found = report.checked
        assert (found["mlflow_missing"], found["mlflow_duplicates"]) == counts


@pytest.fixture
def with_files(stored):
    """The same with the artifacts and models of the store: (run, folder of each)."""
    run, store, run_id = stored
    folder = store.parent / "mlartifacts"
    with closing(sqlite3.connect(store)) as database:
        query = "SELECT artifact_uri FROM runs WHERE run_uuid = ?"
        ((artifacts,),) = database.execute(query, (run_id,))
        query = "SELECT artifact_location FROM logged_models WHERE source_run_id = ?"
        ((model,),) = database.execute(query, (run_id,))
    places = []
    for address in (artifacts, model):
        place = folder / Path(urlsplit(address).path).relative_to(run_home(address))
        shutil.copytree(urlsplit(address).path, place)
        places.append(place)
    change(
        store,
        "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?",
        (f"file://{places[0]}", run_id),
    )
    change(store, "UPDATE logged_models SET artifact_location = ?", (f"file://{places[1]}",))
    return run, *places


def run_home(address):
    """The folder mlartifacts in an address below it."""
    return next(p for p in Path(urlsplit(address).path).parents if p.name == "mlartifacts")


FILES = ["config.yaml", "evaluation/curves.parquet", "evaluation/summary.parquet", "log.txt",
         "plots/meta-test.png", "plots/meta-training.png", "summary.json"]  # fmt: skip

MODEL_FILES = ["README.md", "config.yaml", "model.json", "model.safetensors"]


def test_artifacts_and_models_that_are_there_are_checked(with_files):
    run, artifacts, model = with_files
    report = verify_run(run).report
    assert report.problems == []
    assert report.checked["mlflow_files"] == len(FILES) + len(MODEL_FILES)
    there = [str(p.relative_to(artifacts)) for p in sorted(artifacts.rglob("*.*"))]
    assert there == FILES
    assert sorted(p.name for p in (model / "data" / "exported").iterdir()) == MODEL_FILES


def test_artifacts_that_are_gone_or_other_are_named(with_files):
    run, artifacts, _ = with_files
    (artifacts / "plots" / "meta-test.png").unlink()
    (problem,) = verify_run(run).report.problems
    assert problem.startswith("MLflow: artifact plots/meta-test.png is not there any more;")
    size = (artifacts / "summary.json").stat().st_size
    (artifacts / "summary.json").write_text("{}")
    first, second = verify_run(run).report.problems
    assert first == problem
    assert second.startswith(f"MLflow: artifact summary.json has 2 bytes, and {size} were sent")
    shutil.rmtree(artifacts)
    (problem,) = verify_run(run).report.problems
    shown = ", ".join(FILES[:5])
    assert problem.startswith(f"MLflow: artifact {shown} and 2 more are not there any more")


def test_a_model_that_lacks_a_file_is_named(with_files):
    run, _, model = with_files
    (model / "data" / "exported" / "model.safetensors").unlink()
    (problem,) = verify_run(run).report.problems
    assert problem == ("MLflow: model custom step 4: model.safetensors is not there any more")


def test_files_in_a_place_that_cannot_be_listed_from_here_are_not_checked(stored):
    run, store, _ = stored
    change(store, "UPDATE runs SET artifact_uri = 's3://bucket/1/artifacts'")
    report = verify_run(run).report
    assert report.problems == []
    assert any("artifacts and models: they are at s3://bucket" in x for x in report.not_checked)


def test_a_record_of_what_was_sent_that_is_damaged_or_not_there_is_told(stored):
    run, _, _ = stored
    record = run.path / "tracking" / "sent.jsonl"
    lines = record.read_bytes().splitlines(keepends=True)
    for line in (b"{\n", b'{"kind": "artifact", "name": 5}\n', b'{"kind": "gift", "name": "a"}\n'):
        record.write_bytes(b"".join([lines[0], line, *lines[1:], b'{"kind"']))
        (problem,) = verify_run(run).report.problems
        assert problem == "tracking/sent.jsonl: nothing that was sent in line 2"
    record.unlink()
    report = verify_run(run).report
    assert report.problems == []
    assert any("there is no tracking/sent.jsonl" in line for line in report.not_checked)


def test_points_that_wait_are_not_missing(stored):
    run, store, run_id = stored
    change(store, "DELETE FROM metrics WHERE step >= 3 AND run_uuid = ?", (run_id,))
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    sent = next(i for i, line in enumerate(lines) if json.loads(line)["step"] >= 3)
    offset = sum(map(len, lines[:sent]))
    (run.path / "tracking" / "delivered.json").write_text(json.dumps({"offset": offset}))
    pending = run.path / "tracking" / "pending"
    (pending / "00000099-tags.json").write_text(json.dumps({"kind": "tags", "content": {}}))
    report = verify_run(run).report
    assert report.problems == []
    assert report.checked["mlflow_waiting"] == len(lines) - sent
    assert "1 items wait for MLflow" in report.notes[-1]
    (pending / "00000099-tags.json").write_text("{")
    (problem,) = verify_run(run).report.problems
    assert "00000099-tags.json: is no JSON; it will not be sent" in problem


def test_a_status_that_is_not_the_runs_is_told(stored):
    run, store, run_id = stored
    change(store, "UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", (run_id,))
    verdict = verify_run(run)
    assert verdict.status == "RUNNING"
    assert verdict.report.problems == []
    assert verdict.report.notes == ["MLflow: the run's status is RUNNING, and it is finished"]


GONE = {
    "gone": (None, "is gone"),
    "empty": (b"", "has no table alembic_version, "),
    "garbage": (b"no database" * 100, "is damaged (file is not a database)"),
    "a folder": ("folder", "is no file"),
}


@pytest.mark.parametrize(("content", "said"), GONE.values(), ids=list(GONE))
def test_a_store_that_is_gone_or_none_is_a_problem_and_left_as_it_is(stored, content, said):
    run, store, _ = stored
    store.unlink()
    if content == "folder":
        store.mkdir()
    elif content is not None:
        store.write_bytes(content)
    before = sorted(store.parent.iterdir())
    (problem,) = verify_run(run).report.problems
    start = f"MLflow at {SQLITE}{store}, where the run was tracked, "
    assert problem.startswith(f"{start}{said}")
    assert "restore it from a backup" in problem
    assert sorted(store.parent.iterdir()) == before
    if isinstance(content, bytes):
        assert store.read_bytes() == content


def test_a_store_of_another_machine_is_not_checked(stored):
    run, _, _ = stored
    uri = f"{SQLITE}/nowhere/at/all/mlflow.db"
    edit_json(run.path / "tracking" / "target.json", lambda t: t.update(uri=uri))
    report = verify_run(run).report
    assert report.problems == []
    assert report.not_checked[0] == (
        f"MLflow at {uri}: there is no folder /nowhere/at/all on this machine"
    )


def test_a_store_that_went_with_the_machine_a_run_was_fetched_from_is_not_checked(stored):
    run, store, _ = stored
    store.unlink()
    fetched(run, {})
    report = verify_run(run).report
    assert report.problems == []
    assert report.not_checked[0].endswith("where the run was tracked, is gone")


@pytest.mark.parametrize("table", ["metrics", "params", "runs", "logged_models"])
def test_a_store_that_lacks_a_table_is_named_and_gets_none(stored, table):
    run, store, _ = stored
    change(store, f"DROP TABLE {table}")
    before = store.read_bytes(), sorted(store.parent.iterdir())
    (problem,) = verify_run(run).report.problems
    assert f"has no table {table};" in problem
    assert (store.read_bytes(), sorted(store.parent.iterdir())) == before


def test_a_store_whose_pages_are_damaged_is_named(stored):
    run, store, _ = stored
    data = bytearray(store.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096 * 4] = b"\xff" * 4096 * 4
    store.write_bytes(data)
    (problem,) = verify_run(run).report.problems
    assert "where the run was tracked, is damaged (" in problem
    assert store.read_bytes() == data


KILLED_IN_A_WRITE = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA cache_size = 1")  # so that pages are written before the end
database.execute("UPDATE metrics SET value = value + 1")
database.execute("UPDATE params SET value = 'x'")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_store_whose_writer_was_killed_is_read_as_it_was_before_and_left_as_it_is(stored):
    run, store, _ = stored
    subprocess.run([sys.executable, "-c", KILLED_IN_A_WRITE, store], check=False)
    journal = store.with_name(f"{store.name}-journal")
    before = store.read_bytes(), journal.read_bytes()
    with (
        closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as database,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        database.execute("SELECT 1 FROM metrics").fetchone()
    verdict = verify_run(run)
    assert verdict.report.problems == []
    assert verdict.status == "FINISHED"
    assert (store.read_bytes(), journal.read_bytes()) == before


def test_a_store_in_another_mode_is_read_and_left_as_it_is(stored):
    run, store, _ = stored
    change(store, "PRAGMA journal_mode = WAL")
    before = store.read_bytes(), sorted(store.parent.iterdir())
    assert verify_run(run).report.problems == []
    assert (store.read_bytes(), sorted(store.parent.iterdir())) == before


def test_a_database_that_mlflow_would_have_to_set_up_is_not_asked(stored):
    _, store, run_id = stored
    change(store, "DROP TABLE metrics")
    before = store.read_bytes()
    with pytest.raises(RuntimeError, match="lacks tables"):
        MlflowReader(f"{SQLITE}{store}", run_id)
    assert store.read_bytes() == before


def test_a_run_that_the_store_does_not_know_is_a_problem(stored):
    run, _, _ = stored
    edit_json(run.path / "tracking" / "target.json", lambda t: t.update(run_id="0" * 32))
    (problem,) = verify_run(run).report.problems
    assert problem.endswith(f"has no run {'0' * 32}")


def test_a_server_that_does_not_answer_is_waited_for_as_long_as_is_asked(stored):
    run, _, _ = stored
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        edit_json(run.path / "tracking" / "target.json", lambda t: t.update(uri=uri))
        report = verify_run(run, mlflow_timeout_s=0.3).report
    assert report.problems == []
    assert report.not_checked[0] == f"MLflow at {uri}: no answer within 0.3 s"


def test_the_password_of_a_server_comes_from_the_environment(stored, monkeypatch):
    run, _, _ = stored
    shown = "http://***@127.0.0.1:9"
    edit_json(run.path / "tracking" / "target.json", lambda t: t.update(uri=shown))
    assert "its password is not known here" in verify_run(run).report.not_checked[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    (line, _) = verify_run(run).report.not_checked
    assert line.startswith(f"MLflow at {shown}: ")
    assert "password" not in line
    assert "secret" not in line


def test_a_run_that_never_reached_mlflow_has_no_problem(stored):
    run, _, _ = stored
    edit_json(run.path / "tracking" / "target.json", lambda t: t.update(run_id=None))
    report = verify_run(run).report
    assert report.problems == []
    assert report.not_checked[0] == "MLflow: the run has not been there yet"


def fetched(run, content) -> None:
    """Make of the run one that was fetched from a copy, and gone on with since."""
    (run.path / "tracking" / "fetched.json").write_text(json.dumps(content))


OTHERWISE = "UPDATE metrics SET timestamp = timestamp + 1, value = value + 1"
NEXT_STEP = (
    "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) SELECT key, value, "
    "timestamp, run_uuid, step + 1, is_nan FROM metrics WHERE key = 'train/loss' AND step = 4 AND "
    "run_uuid = ?"
)


@pytest.mark.parametrize("content", [{"steps": {"train/loss": 3}}, {}])
def test_of_steps_before_it_was_fetched_mlflow_keeps_the_points_of_the_first_time(stored, content):
    run, store, run_id = stored
    change(store, f"{OTHERWISE} {WHERE.replace('= 2', '<= 3')}", (run_id,))
    assert verify_run(run).report.problems != []
    fetched(run, content)
    report = verify_run(run).report
    assert report.problems == []
    assert report.checked["mlflow_missing"] == report.checked["mlflow_waiting"] == 0
    change(store, f"DELETE FROM metrics {WHERE}", (run_id,))
    assert verify_run(run).report.problems == [
        "MLflow: train/loss: no point of step 2, which was sent"
    ]


def test_steps_that_were_not_taken_again_since_a_run_was_fetched_are_a_note(stored):
    run, store, run_id = stored
    change(store, NEXT_STEP, (run_id,))
    fetched(run, {"steps": {"train/loss": 5}})
    report = verify_run(run).report
    assert report.problems == []
    assert report.notes[-1].startswith("MLflow: has points of steps 5, taken before the run was")
    fetched(run, {"steps": {"train/loss": 4}})
    (problem,) = verify_run(run).report.problems
    assert problem == "MLflow: train/loss: a point of step 5 that is not in metrics.jsonl"


def test_points_that_mlflow_had_when_a_run_was_fetched_are_there(stored):
    run, _, _ = stored
    fetched(run, {"steps": {"train/loss": 9, "gone": 2, "eval/test/auc": 4}})
    assert verify_run(run).report.problems == [
        "MLflow: gone: no point of step 2 any more, by fetched.json",
        "MLflow: train/loss: no point of step 9 any more, by fetched.json",
    ]


def test_a_summary_that_is_missing_though_the_run_came_to_its_end_is_named(stored):
    run, _, _ = stored
    run.summary.unlink()
    (problem,) = verify_run(run).report.problems
    assert problem == "summary.json: is missing, and by MLflow the run has come to its end"
    fetched(run, {})  # from a copy that was made before
    assert verify_run(run).report.problems == []


def test_steps_after_a_run_was_fetched_are_compared_as_ever(stored):
    run, store, run_id = stored
    fetched(run, {"steps": {"train/loss": 2}})
    change(store, f"{OTHERWISE} {WHERE.replace('= 2', '= 3')}", (run_id,))
    first, second = verify_run(run).report.problems
    assert first == "MLflow: train/loss: no point of step 3, which was sent"
    assert second == "MLflow: train/loss: a point of step 3 that is not in metrics.jsonl"


@pytest.mark.parametrize("steps", [3, [3], {"train/loss": "3"}, {"train/loss": True}, None])
def test_a_mark_of_what_mlflow_had_that_is_damaged_is_named(stored, steps):
    run = stored[0]
    fetched(run, {"steps": steps})
    (problem,) = verify_run(run).report.problems
    assert problem.startswith("tracking/fetched.json: steps is ")


def test_a_fetched_run_whose_store_went_with_the_machine_gets_another(stored):
    run, _, _ = stored
    edit_json(run.path / "tracking" / "target.json", lambda t: t.update(run_id="0" * 32))
    fetched(run, {})
    report = verify_run(run).report
    assert report.problems == []
    assert "gets one when the run is gone on with" in report.notes[-1]
